//! Commands of scripts for what goes beyond Swarm: moves, tickets, runs by the clock.

use std::{fmt::Write as _, sync::Arc};

use skep_api::{
    Id, TicketId, Timestamp,
    object::{Revocation, Service},
};
use skep_store::Change;

use super::{Script, duration, host};
use crate::pass::{plan_rebalance, tests::harness::EPOCH};

impl Script {
    /// `for=60s`, `uses=2`, `revoked`.
    pub(super) fn ticket(&mut self, n: u128, facts: &[&str]) {
        let id = TicketId(Id(n));
        let mut ticket = self.swarm.view().ticket(id).map(|old| (**old).clone()).unwrap_or_default();
        ticket.id = id;
        for (key, value) in facts.iter().map(|fact| fact.split_once('=').unwrap_or((fact, ""))) {
            match key {
                "for" => ticket.expires_at = self.swarm.now.after(duration(value)),
                "uses" => ticket.uses_left = Some(value.parse().unwrap()),
                "revoked" => ticket.revoked = Some(Revocation::ByUser),
                other => panic!("no fact of a ticket: {other}"),
            }
        }
        self.swarm.apply(vec![Change::PutTicket(Arc::new(ticket))]);
    }

    pub(super) fn show_tickets(&mut self) {
        self.heading("tickets");
        for ticket in self.swarm.view().tickets() {
            let state = ticket.over(self.swarm.now).map_or("valid", |over| over.as_str());
            writeln!(self.shown, "  {} {state}", { ticket.id.0.0 }).unwrap();
        }
    }

    pub(super) fn show_runs(&mut self, name: &str) {
        let service = self.swarm.view().service(self.id(name)).cloned().unwrap();
        self.heading(name);
        let epoch = Timestamp(EPOCH);
        for run in service.runs.iter() {
            let (started, ended) = (run.started.since(epoch), run.ended.since(epoch));
            let (n, done, failed) = (run.iteration, run.completed, run.failed);
            writeln!(self.shown, "  {n}: from {started:?} to {ended:?}, {done} completed, {failed} failed")
                .unwrap();
        }
        let state = if service.is_between_runs() { "waits" } else { "runs" };
        writeln!(self.shown, "  {state}, iteration {}", service.job_iteration).unwrap();
    }

    /// What a move would be if all that may be made even was.
    pub(super) fn show_moves(&mut self, name: &str) {
        let view = self.swarm.view();
        let plan = plan_rebalance(&view, view.service(self.id(name)).unwrap(), self.swarm.now);
        self.heading(name);
        for one in &plan.moves {
            let task = &self.swarm.names[&one.task.id];
            writeln!(self.shown, "  {task} would go from {} to {}", host(one.from), host(one.to)).unwrap();
        }
        writeln!(
            self.shown,
            "  {} a minute{}{}",
            plan.a_minute,
            if plan.held.is_empty() { "" } else { ": " },
            plan.held
        )
        .unwrap();
    }

    pub(super) fn rebalance(&mut self, name: &str) {
        let (id, now) = (self.id(name), self.swarm.now);
        self.swarm.change(id, |old| Ok(Service { balance_asked: now, ..old.clone() }));
    }
}
