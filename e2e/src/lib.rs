//! The harness of the end-to-end stories and the benchmark: a real swarm, real containers, real clients.
//!
//! `skep dev` builds every cluster; this crate starts it, drives it with the docker CLI, our own CLI, the
//! HTTP API and plain TCP clients, and takes it down. It depends on no crate of ours: it knows what a
//! user knows. Invariant: no sleeps in stories; whoever waits, waits for a value in [`wait_for`].

mod cluster;
mod command;
mod connection;
mod http;
mod image;
mod load;
mod registry;
mod task;
mod wait;

pub use cluster::{
    Builder, Cluster, Node, NodeRole, Program, mark_of, next_build, programs_of, skep_program,
};
pub use command::{Output, run};
pub use connection::Connection;
pub use http::{Answer, get, request, request_within};
pub use image::{BUSYBOX, WHOAMI, busybox_archive};
pub use load::Load;
pub use registry::Registry;
pub use task::Task;
pub use wait::{Stopwatch, try_wait_for, wait_for};
