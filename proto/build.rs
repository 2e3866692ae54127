//! Compiles the .proto files with protox, so that a build needs no protoc.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

use tonic_prost_build::FileDescriptorSet;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["types", "mount", "keeper", "admin", "auth", "data"]
        .map(|name| format!("proto/dfs/v1/{name}.proto"));
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(&files, ["proto"])?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("methods.rs"), methods(&descriptors))?;
    let secrets = ["LoginRequest", "AddUserRequest", "SetPasswordRequest", "TokenReply", "NewToken"]
        .map(|m| format!(".dfs.v1.{m}"));
    tonic_prost_build::configure().bytes(".dfs.v1").skip_debug(&secrets).compile_fds(descriptors)?;
    Ok(())
}

/// A list, in Rust, of the path of each call.
fn methods(descriptors: &FileDescriptorSet) -> String {
    let services =
        descriptors.file.iter().flat_map(|file| file.service.iter().map(move |s| (file.package(), s)));
    let paths = services.flat_map(|(package, service)| {
        service.method.iter().map(move |m| format!("/{package}.{}/{}", service.name(), m.name()))
    });
    format!("&{:?}", paths.collect::<Vec<_>>())
}
