//! `skep node retire`: demote, drain, wait, remove; it stops and says why when a step would hurt.
//!
//! Each step is looked at before it is taken and can be asked for again: what is done is done already.
//! Nothing is undone by itself; an error tells how to go on and how to go back.

mod plan;

use std::{collections::BTreeMap, time::Duration};

use anyhow::bail;
use clap::Args;
use serde_json::Value;
use tokio::time::Instant;

use super::{change::send, find};
use crate::client::{
    connection::{Connection, escape, is_not_found, is_out_of_date},
    duration,
    output::{print, text},
};
use plan::{Left, Look, Plan, Step};

/// How often the daemon is asked.
const POLL_EVERY: Duration = Duration::from_millis(200);
/// A drain takes seconds; a slow pull on another node takes minutes.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(300);
/// A task that fits nowhere for this long will not find a place by itself: a port or a reservation that
/// the drained node's own tasks still hold is free by then.
const STUCK_AFTER: Duration = Duration::from_secs(15);

#[derive(Args, Debug)]
pub(crate) struct Retire {
    /// How long its tasks may take to run elsewhere (ns|us|ms|s|m|h) (default 5m)
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    timeout: Option<i64>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Its ID or host name
    #[arg(value_name = "NODE")]
    node: String,
}

/// Takes the node out of the swarm.
///
/// # Errors
/// Why it stopped, what is done so far, and how to go on or back.
pub(crate) async fn run(daemon: &Connection, flags: &Retire) -> anyhow::Result<()> {
    let node = find(daemon, &flags.node).await?;
    let nodes = daemon.list("/nodes", &[]).await?;
    let info = daemon.get("/info").await?;
    let plan = Plan::make(&node, &nodes, text(&info, "/Swarm/NodeID")).map_err(anyhow::Error::msg)?;
    let name = text(&node, "/Description/Hostname").to_owned();
    for note in &plan.notes {
        eprintln!("note: {note}");
    }
    if flags.dry_run {
        let steps = plan.steps.iter().enumerate();
        return print(
            &steps.map(|(at, step)| format!("{}. {}\n", at + 1, step.words(&name))).collect::<String>(),
        );
    }
    let timeout = flags.timeout.and_then(|nanos| u64::try_from(nanos).ok()).map(Duration::from_nanos);
    let id = text(&node, "/ID").to_owned();
    let is_active = text(&node, "/Spec/Availability") == "active";
    let tasks = daemon.list("/tasks", &[]).await?;
    let retiring = Retiring {
        daemon,
        id: &id,
        name: &name,
        is_down: plan.is_down,
        deadline: Instant::now() + timeout.unwrap_or(TIMEOUT_DEFAULT),
        before: Look::of(&tasks, &id).before(is_active),
    };
    let mut done = Vec::new();
    for step in &plan.steps {
        print(&format!("{}\n", step.words(&name)))?;
        if let Err(error) = retiring.take(*step).await {
            return Err(error.context(stopped(&flags.node, &done, *step)));
        }
        done.push(*step);
    }
    print(&format!(
        "{name} is retired. To use the machine again, run 'skep swarm leave --force' on it and join it anew.\n"
    ))
}

/// What is done so far, and what can be done now.
fn stopped(word: &str, done: &[Step], at: Step) -> String {
    let mut out = format!("stopped at '{}'", at.name());
    if !done.is_empty() {
        let names: Vec<&str> = done.iter().map(|step| step.name()).collect();
        out.push_str(&format!(" (done: {})", names.join(", ")));
    }
    let mut back = Vec::new();
    if done.contains(&Step::Drain) || at == Step::Drain {
        back.push(format!("'skep node update --availability active {word}'"));
    }
    if done.contains(&Step::Demote) || at == Step::Demote {
        back.push(format!("'skep node promote {word}'"));
    }
    out.push_str(&format!("; to go on, run 'skep node retire {word}' again"));
    if !back.is_empty() {
        out.push_str(&format!("; to go back, run {}", back.join(" and ")));
    }
    out
}

struct Retiring<'a> {
    daemon: &'a Connection,
    id: &'a str,
    name: &'a str,
    deadline: Instant,
    is_down: bool,
    /// Tasks that each service has to have running elsewhere.
    before: BTreeMap<String, u64>,
}

impl Retiring<'_> {
    async fn take(&self, step: Step) -> anyhow::Result<()> {
        match step {
            Step::Demote => self.demote().await,
            Step::Drain => self.set("Availability", "drain").await,
            Step::Wait => self.wait().await,
            Step::Remove => {
                self.daemon.delete(&format!("/nodes/{}?force=1", escape(self.id))).await.map(|_| ())
            }
        }
    }

    async fn node(&self) -> anyhow::Result<Value> {
        self.daemon.get(&format!("/nodes/{}", escape(self.id))).await
    }

    /// A node that was just demoted, or goes down meanwhile, changes between the look and the write.
    async fn set(&self, key: &str, word: &str) -> anyhow::Result<()> {
        loop {
            let node = self.node().await?;
            let mut spec = node["Spec"].clone();
            spec[key] = word.into();
            match send(self.daemon, &node, &spec).await {
                Err(error) if is_out_of_date(&error) => self.pause(&format!("{error:#}")).await?,
                done => return done,
            }
        }
    }

    /// The role is written at once; the manager leaves the others after that.
    async fn demote(&self) -> anyhow::Result<()> {
        self.set("Role", "worker").await?;
        while self.node().await?["ManagerStatus"].is_object() {
            self.pause("it is still a manager").await?;
        }
        Ok(())
    }

    async fn pause(&self, waiting_for: &str) -> anyhow::Result<()> {
        if Instant::now() >= self.deadline {
            bail!("timed out: {waiting_for}");
        }
        tokio::time::sleep(POLL_EVERY).await;
        Ok(())
    }

    /// Until nothing of it runs here and as much as before runs elsewhere.
    async fn wait(&self) -> anyhow::Result<()> {
        let mut shown = None;
        let mut stuck: Option<Instant> = None;
        loop {
            let now = self.look().await?;
            let left = Left::of(&self.before, &now, self.is_down);
            if left.is_nothing() {
                return if shown.is_some() { print("  all of them run elsewhere\n") } else { Ok(()) };
            }
            let words = left.words(self.name);
            if shown.as_ref() != Some(&words) {
                print(&format!("  {words}\n"))?;
                shown = Some(words.clone());
            }
            match &left.explanation {
                Some(why) => {
                    let since = *stuck.get_or_insert_with(Instant::now);
                    if since.elapsed() >= STUCK_AFTER {
                        bail!(
                            "a task fits on no other node: {why} (to remove the node all the same: 'skep node rm --force {}')",
                            self.name
                        );
                    }
                }
                None => stuck = None,
            }
            let why = left.explanation.map(|why| format!(" ({why})")).unwrap_or_default();
            self.pause(&format!("{words}{why}")).await?;
        }
    }

    async fn look(&self) -> anyhow::Result<Look> {
        let mut look = Look::of(&self.daemon.list("/tasks", &[]).await?, self.id);
        for service in self.before.keys() {
            // A service that was removed, or scaled down, meanwhile is not waited for; nor one of another
            // mode, which has no number that must run elsewhere.
            match self.daemon.get(&format!("/services/{}", escape(service))).await {
                Ok(object) => {
                    let replicas = object.pointer("/Spec/Mode/Replicated/Replicas").and_then(Value::as_u64);
                    look.names.insert(service.clone(), text(&object, "/Spec/Name").to_owned());
                    look.replicas.insert(service.clone(), replicas.unwrap_or(0));
                }
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_the_way_on_and_back() {
        assert_eq!(
            stopped("beta", &[Step::Demote, Step::Drain], Step::Wait),
            "stopped at 'wait' (done: demote, drain); to go on, run 'skep node retire beta' again; to go back, run \
             'skep node update --availability active beta' and 'skep node promote beta'"
        );
        assert_eq!(
            stopped("beta", &[], Step::Remove),
            "stopped at 'remove'; to go on, run 'skep node retire beta' again"
        );
    }
}
