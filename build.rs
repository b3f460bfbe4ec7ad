//! Generates the gRPC code with protox, so that no `protoc` has to be installed.

use std::path::PathBuf;
use std::{env, error::Error, fs};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/broker.proto"], ["proto"])?;
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out_dir.join("broker.descriptors.bin"), descriptors.encode_to_vec())?;

    // Clients: ordinary messages, bodies as reference-counted bytes.
    let client_dir = out_dir.join("client");
    fs::create_dir_all(&client_dir)?;
    tonic_prost_build::configure()
        .build_server(false)
        .bytes(".")
        .out_dir(&client_dir)
        .compile_fds(descriptors.clone())?;

    // The server: a delivered message is a frame that was encoded once, and the codec
    // maps what the transport would answer to a client's mistake (contract.md, other codes).
    let server_dir = out_dir.join("server");
    fs::create_dir_all(&server_dir)?;
    tonic_prost_build::configure()
        .build_client(false)
        .bytes(".")
        .extern_path(".broker.MessageResponse", "crate::event::EncodedMessage")
        .codec_path("crate::api::codec::BrokerCodec")
        .out_dir(&server_dir)
        .compile_fds(descriptors)?;

    // Between nodes: ordinary messages on both sides.
    let nodes = protox::compile(["proto/nodes.proto"], ["proto"])?;
    let nodes_dir = out_dir.join("nodes");
    fs::create_dir_all(&nodes_dir)?;
    tonic_prost_build::configure().bytes(".").out_dir(&nodes_dir).compile_fds(nodes)?;
    Ok(())
}
