//! Where a benchmark writes its figures, beside the table that it prints.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

/// Flags of both benchmarks.
#[derive(Args, Debug)]
pub struct Outputs {
    /// Write the figures there, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw them there, as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl Outputs {
    /// Writes what was asked for.
    ///
    /// # Errors
    /// What could not be written, and why.
    pub fn write(&self, figures: &impl Serialize, svg: impl FnOnce() -> String) -> Result<(), String> {
        if let Some(path) = &self.json {
            write_json(path, figures)?;
        }
        self.svg.as_ref().map_or(Ok(()), |path| write(path, &svg()))
    }
}

/// Writes figures as JSON.
///
/// # Errors
/// What could not be written, and why.
pub fn write_json(path: &Path, figures: &impl Serialize) -> Result<(), String> {
    write(path, &serde_json::to_string_pretty(figures).map_err(|error| error.to_string())?)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("write {}: {error}", path.display()))
}
