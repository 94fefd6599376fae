//! Compiles the protos in Rust and generates the messages, services and the descriptor set for reflection.

use std::path::PathBuf;

const PROTOS: [&str; 8] = [
    "sawlog/v1/types.proto",
    "sawlog/v1/topic.proto",
    "sawlog/v1/produce.proto",
    "sawlog/v1/read.proto",
    "sawlog/v1/group.proto",
    "sawlog/v1/consume.proto",
    "sawlog/v1/dead_letter.proto",
    "sawlog/v1/replay.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let descriptors = protox::compile(PROTOS, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("sawlog_descriptor.bin");
    std::fs::write(&out, {
        use protox::prost::Message;
        descriptors.encode_to_vec()
    })?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=sawlog");
    Ok(())
}
