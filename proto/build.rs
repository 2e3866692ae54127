//! Compiles the .proto files with protox, so that a build needs no protoc.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files =
        ["types", "mount", "keeper", "admin", "data"].map(|name| format!("proto/dfs/v1/{name}.proto"));
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(&files, ["proto"])?;
    tonic_prost_build::configure().bytes(".dfs.v1").compile_fds(descriptors)?;
    Ok(())
}
