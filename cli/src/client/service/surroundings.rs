//! Flags for what surrounds the process: name servers, kernel settings, limits. Create gives them, update adds and
//! removes; docker's lists are sorted (`CLI:cli/command/service/update.go`).

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};
use skep_api::spec::{ContainerSpec, DnsConfig, Ulimit};

use super::change::{labels, members, tidy, words};
use crate::client::{flags, output::text};

/// Of `service create`.
#[derive(Args, Debug, Default)]
pub(crate) struct Surroundings {
    /// Set custom DNS servers
    #[arg(long)]
    dns: Vec<String>,
    /// Set DNS options
    #[arg(long)]
    dns_option: Vec<String>,
    /// Set custom DNS search domains
    #[arg(long)]
    dns_search: Vec<String>,
    /// Sysctl options
    #[arg(long)]
    sysctl: Vec<String>,
    /// Ulimit options
    #[arg(long, value_parser = flags::ulimit)]
    ulimit: Vec<Ulimit>,
}

fn given<T>(all: Vec<T>) -> Option<Vec<T>> {
    (!all.is_empty()).then_some(all)
}

impl Surroundings {
    /// The container with what was named.
    pub(crate) fn of(self, container: ContainerSpec) -> ContainerSpec {
        let dns = DnsConfig {
            nameservers: given(self.dns),
            search: given(self.dns_search),
            options: given(self.dns_option),
            ..DnsConfig::default()
        };
        ContainerSpec {
            dns_config: (dns != DnsConfig::default()).then(|| Box::new(dns)),
            sysctls: (!self.sysctl.is_empty()).then(|| flags::labels(&self.sysctl).into_iter().collect()),
            ulimits: given(self.ulimit),
            ..container
        }
    }
}

/// Of `service update`.
#[derive(Args, Debug, Default, PartialEq)]
pub(crate) struct SurroundingsChange {
    /// Add or update a custom DNS server
    #[arg(long)]
    dns_add: Vec<String>,
    /// Remove a custom DNS server
    #[arg(long)]
    dns_rm: Vec<String>,
    /// Add or update a DNS option
    #[arg(long)]
    dns_option_add: Vec<String>,
    /// Remove a DNS option
    #[arg(long)]
    dns_option_rm: Vec<String>,
    /// Add or update a custom DNS search domain
    #[arg(long)]
    dns_search_add: Vec<String>,
    /// Remove a DNS search domain
    #[arg(long)]
    dns_search_rm: Vec<String>,
    /// Add or update a Sysctl option
    #[arg(long)]
    sysctl_add: Vec<String>,
    /// Remove a Sysctl option
    #[arg(long)]
    sysctl_rm: Vec<String>,
    /// Add or update a ulimit option
    #[arg(long, value_parser = flags::ulimit)]
    ulimit_add: Vec<Ulimit>,
    /// Remove a ulimit option
    #[arg(long)]
    ulimit_rm: Vec<String>,
}

impl SurroundingsChange {
    pub(crate) fn apply(&self, container: &mut Value) {
        let mut dns = container["DNSConfig"].take();
        words(&mut dns["Nameservers"], &self.dns_add, &self.dns_rm);
        words(&mut dns["Search"], &self.dns_search_add, &self.dns_search_rm);
        words(&mut dns["Options"], &self.dns_option_add, &self.dns_option_rm);
        tidy(&mut dns);
        if dns.as_object().is_some_and(|map| !map.is_empty()) {
            container["DNSConfig"] = dns;
        }
        labels(&mut container["Sysctls"], &self.sysctl_add, &self.sysctl_rm);
        self.ulimits(&mut container["Ulimits"]);
    }

    /// One of each name.
    fn ulimits(&self, all: &mut Value) {
        if self.ulimit_add.is_empty() && self.ulimit_rm.is_empty() {
            return;
        }
        let mut by_name: BTreeMap<String, Value> =
            members(all).into_iter().map(|one| (text(&one, "/Name").to_owned(), one)).collect();
        by_name.retain(|name, _| !self.ulimit_rm.contains(name));
        by_name.extend(self.ulimit_add.iter().map(|one| (one.name.clone(), json!(one))));
        *all = by_name.into_values().collect();
    }
}
