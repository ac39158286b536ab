//! The embedded engine: images, and containers that outlive the daemon, with nothing to install.
//!
//! An image's layers are unpacked once, each to a directory named by its content; overlayfs stacks them.
//! Each container has one small process of its own, the shim (`agent/runtime/shim`), which runs
//! libcontainer, keeps the output and leaves the exit status on disk. The engine only writes files, starts
//! shims and reads files; so a new engine on the same directory finds all that an earlier one started.
//! Invariant: whatever is in the state directory was put there whole (temporary name, then rename), and
//! what is not reachable from a record is garbage that [`Engine::open`] removes.

mod bundle;
#[expect(dead_code, reason = "shared with the shim, which uses the rest")]
mod cgroup;
mod containers;
mod credentials;
mod engine;
mod handoff;
mod hosts;
mod images;
mod in_force;
mod layers;
mod load;
mod logs;
mod lookup;
mod manifest;
mod pull;
mod reference;
mod registry;
mod spec;
mod stamp;
mod stream;
mod supervise;
mod unpack;
mod user;
mod volumes;

pub use containers::{ContainerError, ContainerInfo, ContainerState, ExitStatus};
pub use credentials::{Credentials, CredentialsError};
pub use engine::{Config, Engine, EngineError};
pub use hosts::Registries;
pub use images::{ImageConfig, ImageConfigChanges, ImageError, ImageInfo, LoadedImage};
pub use in_force::{InForce, MountInForce};
pub use logs::{LogLine, LogOptions, LogStream};
pub use lookup::{Distribution, LOOKUP_MAX};
pub use manifest::Platform;
pub use pull::{LayerStep, Outcome, Pull, PullError, PullNews, PullRequest, Pulled};
pub use spec::{ContainerSpec, Limits, LogConfig, Mount, MountKind, Ulimit};
pub use volumes::{Volume, VolumeError};
