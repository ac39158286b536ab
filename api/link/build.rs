//! Generates the gRPC stubs for the messages that live in `skep-api`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = protox::compile(["../proto/objects.proto", "../proto/cluster.proto"], ["../proto"])?;
    tonic_prost_build::configure().extern_path(".skep.v1", "::skep_api::wire").compile_fds(files)?;
    println!("cargo:rerun-if-changed=../proto");
    Ok(())
}
