//! The agents, each with a certificate and a session of its own, on two threads.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use skep_agent::sim::SimMachine;
use skep_agent::{Agent, Config};
use skep_api::wire;
use skep_link::{JoinParams, JoinToken};
use skep_manager::FEATURE_LEVEL;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Agents that join at the same time.
const JOINING_MAX: usize = 64;
/// The longest that one attempt may take, and how many there are.
const JOIN_MAX: Duration = Duration::from_secs(60);
const ATTEMPTS_MAX: usize = 5;
/// Before the next one.
const PAUSE: Duration = Duration::from_millis(500);
const MIB: i64 = 1 << 20;

/// Agents that run.
pub(crate) struct Fleet {
    runtime: Runtime,
    managers: Vec<String>,
    agents: Mutex<Vec<(Agent, SimMachine)>>,
}

impl Fleet {
    pub(crate) fn new(managers: Vec<String>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        Ok(Self { runtime, managers, agents: Mutex::default() })
    }

    /// Takes `n` of them into the swarm.
    pub(crate) fn join(self: &Arc<Self>, n: usize, token: &JoinToken) -> anyhow::Result<()> {
        let fleet = Arc::clone(self);
        let token = token.clone();
        self.runtime.block_on(async move {
            let mut joining = JoinSet::new();
            for number in 0..n {
                if joining.len() >= JOINING_MAX {
                    joining.join_next().await.context("one joins")???;
                }
                let (fleet, token) = (Arc::clone(&fleet), token.clone());
                joining.spawn(async move { fleet.add(number, &token).await });
            }
            while let Some(joined) = joining.join_next().await {
                joined??;
            }
            Ok(())
        })
    }

    async fn add(&self, number: usize, token: &JoinToken) -> anyhow::Result<()> {
        let addr = Ipv4Addr::from(0x0a80_0000 + u32::try_from(number)?);
        let name = format!("hollow{number}");
        let description = wire::NodeDescription {
            hostname: name.clone(),
            os: "linux".to_owned(),
            arch: "x86_64".to_owned(),
            nano_cpus: 4_000_000_000,
            memory_bytes: 4096 * MIB,
            ..wire::NodeDescription::default()
        };
        let mut attempts = 0;
        let joined = loop {
            let params = JoinParams {
                description: description.clone(),
                data_path_addr: addr.to_string(),
                availability: String::new(),
                feature_level: FEATURE_LEVEL,
            };
            let manager = &self.managers[(number + attempts) % self.managers.len()];
            match skep_link::join(manager, token, params, JOIN_MAX).await {
                Ok(joined) => break joined,
                Err(error) if attempts + 1 == ATTEMPTS_MAX => return Err(error.into()),
                Err(error) => {
                    println!("agent {number} was not taken in: {error}");
                    attempts += 1;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        let config = Config {
            state_dir: PathBuf::from("/nonexistent"),
            identity: joined.identity,
            managers: joined.managers,
            description,
            data_path_addr: addr,
            // Nothing listens there.
            probe_addr: String::new(),
            node_name: name,
            api_socket: PathBuf::from("/nonexistent/api.sock"),
            shim: PathBuf::from("/nonexistent/shim"),
            clock,
        };
        let machine = SimMachine::hollow(now);
        let agent = Agent::start_simulated(config, &machine).await?;
        self.lock().push((agent, machine));
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Agent, SimMachine)>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn n_connected(&self) -> usize {
        self.lock().iter().filter(|(agent, _)| agent.is_connected()).count()
    }

    /// Containers that run, of all.
    pub(crate) fn n_running(&self) -> usize {
        self.lock().iter().map(|(_, machine)| machine.n_running()).sum()
    }

    /// Lets go of all; their nodes stay in the swarm, which ends soon after.
    pub(crate) fn stop(&self) {
        self.lock().clear();
    }
}

#[expect(clippy::disallowed_methods, reason = "these agents live in real time")]
fn now() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

fn clock() -> i64 {
    i64::try_from(now().as_nanos()).unwrap_or(i64::MAX)
}
