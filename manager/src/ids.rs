//! Fresh ids from the system's randomness.

use ring::rand::{SecureRandom, SystemRandom};
use skep_api::{Id, id::IdSource};

use crate::sim;

/// The source of ids of a running daemon.
#[derive(Debug, Clone)]
pub struct SystemIds(Option<SystemRandom>);

impl Default for SystemIds {
    fn default() -> Self {
        Self(if sim::is_simulated() { None } else { Some(SystemRandom::new()) })
    }
}

impl IdSource for SystemIds {
    fn next_id(&mut self) -> Id {
        let Some(random) = &self.0 else { return sim::next_id() };
        let mut bytes = [0; 16];
        random.fill(&mut bytes).expect("the kernel's random source does not fail once the system is up");
        Id(u128::from_be_bytes(bytes))
    }
}
