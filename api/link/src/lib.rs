//! How nodes talk: gRPC stubs, the mTLS dialer and acceptor, the built-in CA and join tokens.
//!
//! A node's certificate says who it is (CN node id, OU role, O cluster id) and is checked by TLS; what
//! it may do is decided by the caller from the store's current role, never from the certificate.
//! All of TLS uses ring, passed explicitly: no process-wide provider is installed.

use std::time::Duration;

pub mod accept;
pub mod ca;
pub mod dial;
pub mod external;
mod greeted;
pub mod identity;
pub mod probe;
pub mod renewal;
pub mod root;
#[doc(hidden)]
pub mod sim;
mod storage;
pub mod stubs;
mod subject;
mod tls;
pub mod token;

pub use accept::{Peer, RemoteAddr, ServeError, SharedRoutes, peer, remote_addr, serve};
pub use ca::{Authority, CaError, new_csr};
pub use dial::{
    DialError, JoinError, JoinParams, Joined, Whom, connect, connect_once, dispatcher, join, unary,
};
pub use external::{ExternalCa, ExternalError};
pub use identity::{Held, Identity, IdentityError, KeyBox};
pub use probe::{Answerer, Hear, Knows, ProbeError, probe};
pub use renewal::{Life, RenewError, renew, renew_by};
pub use root::{Given, RootError, check_issued, check_root, issuer_of, normal_pem};
pub use subject::Role;
pub use token::{JoinToken, RootDigest, TokenError};

/// The control port of a manager: what an address without a port means.
pub const DEFAULT_PORT: u16 = 2377;

/// TCP, TLS and the certificates of one connection must be through in this time.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The deadline of a unary RPC (see [`unary`]). A long stream has none: keepalive ends it.
pub const RPC_DEADLINE: Duration = Duration::from_secs(5);

/// The largest message of a stream between nodes: an assignment set or a mesh of a whole cluster.
/// tonic's 4 MiB stays for `Join`, which anybody may call. For a service of one's own:
/// `DispatcherServer::new(..).max_decoding_message_size(MESSAGE_MAX_BYTES)`.
pub const MESSAGE_MAX_BYTES: usize = 32 << 20;
