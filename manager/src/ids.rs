//! Fresh ids from the system's randomness.

use ring::rand::{SecureRandom, SystemRandom};
use skep_api::{Id, id::IdSource};

/// The source of ids of a running daemon.
#[derive(Debug, Clone)]
pub struct SystemIds(SystemRandom);

impl Default for SystemIds {
    fn default() -> Self {
        Self(SystemRandom::new())
    }
}

impl IdSource for SystemIds {
    fn next_id(&mut self) -> Id {
        let mut bytes = [0; 16];
        self.0.fill(&mut bytes).expect("the kernel's random source does not fail once the system is up");
        Id(u128::from_be_bytes(bytes))
    }
}
