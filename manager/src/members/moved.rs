//! A manager whose address changed tells the others: by raft where it still hears a leader, else by a word to any
//! manager that its state or its file names, as nobody finds it where it was.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use skep_api::object::Node;
use skep_store::{Change, Guard, GuardKind};
use tokio::time::sleep;

use super::enter::{Entrance, Failure};

/// The first pause between attempts, doubled each time,
const RETRY_MIN: Duration = Duration::from_millis(100);
/// up to this.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// From so many failures on the log says what is in the way.
const SAID_AFTER: u32 = 5;

impl Entrance {
    /// Returns once the state says that this manager, which is a member, is at `advertise_addr`. Tries again and
    /// again; dropping it ends that.
    pub async fn moved(&self, advertise_addr: &str, managers: impl Fn() -> Vec<String>) {
        // Where the others saw it, whatever that is.
        if advertise_addr.starts_with("0.0.0.0:") {
            return;
        }
        let (mut pause, mut n_failures) = (RETRY_MIN, 0_u32);
        while let Some(node) = self.elsewhere(advertise_addr) {
            match self.tell_of(&node, advertise_addr, &managers()).await {
                Ok(()) => {
                    tracing::info!(addr = advertise_addr, "the managers know the new address of this one")
                }
                Err(why) => {
                    n_failures = n_failures.saturating_add(1);
                    if n_failures == SAID_AFTER {
                        tracing::error!(
                            addr = advertise_addr,
                            was = node.advertise_addr,
                            err = why,
                            "no other manager can be told this one's new address; trying on. If all managers \
                             changed theirs at once, recover one by `skep swarm recover` and join the others anew"
                        );
                    }
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// This node, if the state has it as a member at another address.
    fn elsewhere(&self, advertise_addr: &str) -> Option<Arc<Node>> {
        let shared = &self.0;
        let view = shared.machine.view();
        let node = view.node(shared.peers.own())?;
        // One that is no member yet says its address as it comes in.
        let is_member = node.raft_id == shared.raft.raft_id();
        (is_member && node.advertise_addr != advertise_addr).then(|| Arc::clone(node))
    }

    async fn tell_of(&self, node: &Node, advertise_addr: &str, managers: &[String]) -> Result<(), String> {
        let shared = &self.0;
        let view = shared.machine.view();
        let taken = view.nodes().find(|other| {
            other.id != node.id && other.raft_id != 0 && other.advertise_addr == advertise_addr
        });
        if let Some(other) = taken {
            return Err(format!("address {advertise_addr} is node {}'s", other.id));
        }
        let guard = Guard { kind: GuardKind::Node, id: node.id.0, version: node.meta.version };
        let new = Node { advertise_addr: advertise_addr.to_owned(), ..node.clone() };
        let mut why = match shared.write(vec![guard], vec![Change::PutNode(Arc::new(new))]).await {
            Ok(()) => return Ok(()),
            Err(error) => error.to_string(),
        };
        let mut seen = BTreeSet::from([advertise_addr.to_owned(), node.advertise_addr.clone()]);
        let addrs = shared.book.addrs().into_iter().chain(managers.iter().cloned());
        for addr in addrs.filter(|addr| seen.insert(addr.clone())) {
            match self.ask(&addr, advertise_addr).await {
                Ok(_) => return Ok(()),
                Err(Failure::Refused(words) | Failure::Again(words)) => why = format!("{addr}: {words}"),
            }
        }
        Err(why)
    }
}
