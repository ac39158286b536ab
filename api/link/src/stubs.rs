//! The generated gRPC clients and servers of `cluster.proto`; their messages are `skep_api::wire`.

pub use generated::{
    dispatcher_client, dispatcher_server, join_client, join_server, members_client, members_server,
    node_ca_client, node_ca_server, prober_client, prober_server,
};

#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    unused_qualifications,
    reason = "generated code"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/skep.v1.rs"));
}
