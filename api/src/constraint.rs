//! Placement constraints: `node.labels.zone==a`. Grammar and matching are Swarm's
//! (`SK:manager/constraint/constraint.go`): `==` and `!=` only, whole match without regard to case,
//! a missing label reads as "", an unknown key never matches.

use std::net::IpAddr;

use crate::{NodeId, object::Node, spec::Role};

/// One parsed constraint.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Constraint {
    key: String,
    negated: bool,
    value: String,
}

/// What of a node a constraint looks at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Subject<'a> {
    /// Its id.
    Id,
    /// Its host name.
    Hostname,
    /// The address from which it speaks to us.
    Address,
    /// Worker or manager.
    Role,
    /// Its operating system.
    Os,
    /// Its architecture, as the kernel says.
    Arch,
    /// A label that the user gave it; the key keeps its case.
    NodeLabel(&'a str),
    /// A label of its daemon's settings; the key keeps its case.
    EngineLabel(&'a str),
    /// Nothing that there is.
    Unknown,
}

impl<'a> Subject<'a> {
    /// What a key names.
    #[must_use]
    pub fn of(key: &'a str) -> Self {
        let after = |prefix: &str| {
            let (head, rest) = key.split_at_checked(prefix.len())?;
            head.eq_ignore_ascii_case(prefix).then_some(rest)
        };
        let is = |name: &str| key.eq_ignore_ascii_case(name);
        match () {
            () if is("node.id") => Self::Id,
            () if is("node.hostname") => Self::Hostname,
            () if is("node.ip") => Self::Address,
            () if is("node.role") => Self::Role,
            () if is("node.platform.os") => Self::Os,
            () if is("node.platform.arch") => Self::Arch,
            // A label without a name is none (`SK:manager/constraint/constraint.go`).
            () => match (after("node.labels."), after("engine.labels.")) {
                (Some(""), _) | (None, Some("") | None) => Self::Unknown,
                (Some(label), _) => Self::NodeLabel(label),
                (None, Some(label)) => Self::EngineLabel(label),
            },
        }
    }
}

/// The text is not a constraint.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConstraintError {
    /// Neither `==` nor `!=` in it.
    #[error("invalid constraint '{0}': constraint expected one operator from ==, !=")]
    Operator(String),
    /// The left side is no key.
    #[error("invalid constraint '{text}': key '{key}' is invalid")]
    Key {
        /// The whole constraint.
        text: String,
        /// Its left side.
        key: String,
    },
    /// The right side has characters that no value has.
    #[error("invalid constraint '{text}': value '{value}' is invalid")]
    Value {
        /// The whole constraint.
        text: String,
        /// Its right side.
        value: String,
    },
}

/// Characters of a value beyond letters, digits and white space.
const VALUE_MARKS: &str = ":-_.*()?+[]\\^$|/";

impl Constraint {
    /// Parses `key==value` or `key!=value`; white space around both sides is dropped.
    ///
    /// # Errors
    /// No operator, or a key or value that cannot be one.
    pub fn parse(text: &str) -> Result<Self, ConstraintError> {
        let (at, negated) = match (text.find("=="), text.find("!=")) {
            (Some(eq), Some(ne)) if ne < eq => (ne, true),
            (Some(eq), _) => (eq, false),
            (None, Some(ne)) => (ne, true),
            (None, None) => return Err(ConstraintError::Operator(text.to_owned())),
        };
        let (key, value) = (text[..at].trim(), text[at + 2..].trim());
        let mut chars = key.chars();
        let key_ok = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && key.len() > 1
            && chars.all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !key_ok {
            return Err(ConstraintError::Key { text: text.to_owned(), key: key.to_owned() });
        }
        let value_ok = !value.is_empty()
            && value
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c.is_whitespace() || VALUE_MARKS.contains(c));
        if !value_ok {
            return Err(ConstraintError::Value { text: text.to_owned(), value: value.to_owned() });
        }
        Ok(Self { key: key.to_owned(), negated, value: value.to_owned() })
    }

    /// Parses all of a spec's.
    ///
    /// # Errors
    /// The first that is none.
    pub fn parse_all(texts: &[String]) -> Result<Vec<Self>, ConstraintError> {
        texts.iter().map(|text| Self::parse(text)).collect()
    }

    /// What of a node it looks at.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        Subject::of(&self.key)
    }

    /// The only node that satisfies it, if it names one by its id.
    #[must_use]
    pub fn node_id(&self) -> Option<NodeId> {
        let names = self.subject() == Subject::Id && !self.negated;
        names.then(|| self.value.to_ascii_lowercase().parse().ok())?
    }

    /// Whether a node satisfies it.
    #[must_use]
    pub fn matches(&self, node: &Node) -> bool {
        let description = &node.description;
        match self.subject() {
            Subject::Id => self.compare(&node.id.to_string()),
            Subject::Hostname => self.compare(&description.hostname),
            Subject::Address => self.matches_address(&node.status.addr),
            Subject::Role => self.compare(match node.role() {
                Role::Worker => "worker",
                Role::Manager => "manager",
            }),
            Subject::Os => self.compare(&description.os),
            Subject::Arch => self.compare(&description.arch),
            Subject::NodeLabel(key) => self.compare(node.spec.labels.get(key).map_or("", String::as_str)),
            Subject::EngineLabel(key) => {
                self.compare(description.engine_labels.get(key).map_or("", String::as_str))
            }
            Subject::Unknown => false,
        }
    }

    fn compare(&self, observed: &str) -> bool {
        observed.eq_ignore_ascii_case(&self.value) != self.negated
    }

    /// An address equals the value, or lies in it when it is a CIDR. What can be neither holds nowhere, negated or not; a
    /// node without an address has none of all (`SK:manager/constraint/constraint.go`).
    fn matches_address(&self, observed: &str) -> bool {
        let observed = observed.parse::<IpAddr>().ok();
        let inside = match self.value.split_once('/') {
            None => self.value.parse::<IpAddr>().ok().map(|wanted| observed == Some(wanted)),
            Some((net, prefix)) => subnet(net, prefix)
                .map(|(net, prefix)| observed.is_some_and(|observed| in_subnet(observed, net, prefix))),
        };
        inside.is_some_and(|inside| inside != self.negated)
    }
}

/// A CIDR, if it is one.
fn subnet(net: &str, prefix: &str) -> Option<(IpAddr, u32)> {
    let (net, prefix): (IpAddr, u32) = (net.parse().ok()?, prefix.parse().ok()?);
    let longest = if net.is_ipv4() { 32 } else { 128 };
    (prefix <= longest).then_some((net, prefix))
}

fn in_subnet(addr: IpAddr, net: IpAddr, prefix: u32) -> bool {
    match (addr, net) {
        (IpAddr::V4(a), IpAddr::V4(n)) if prefix <= 32 => {
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            u32::from(a) & mask == u32::from(n) & mask
        }
        (IpAddr::V6(a), IpAddr::V6(n)) if prefix <= 128 => {
            let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            u128::from(a) & mask == u128::from(n) & mask
        }
        (IpAddr::V4(_) | IpAddr::V6(_), IpAddr::V4(_) | IpAddr::V6(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        let mut node = Node::default();
        node.description.hostname = "Alpha".into();
        node.status.addr = "10.0.0.7".into();
        node.spec.labels.insert("Zone".into(), "a b".into());
        node
    }

    #[test]
    fn matching() {
        for (text, expect) in [
            ("node.hostname==alpha", true),
            ("node.hostname != ALPHA", false),
            ("node.role==worker", true),
            ("node.role!=manager", true),
            ("node.labels.Zone==A B", true),
            ("node.labels.zone==a b", false),
            ("node.labels.none!=x", true),
            ("node.ip==10.0.0.0/8", true),
            ("node.ip!=10.0.0.7", false),
            ("node.ip!=10.0.0.0/8", false),
            ("node.ip!=10.0.0.256", false),
            ("node.ip==10.0.0.7/33", false),
            ("node.ip!=186.17.9.41/34", false),
            ("node.ip!=fe80::/129", false),
            ("node.ip!=fe80::/10", true),
            ("node.labels.!=x", false),
            ("engine.labels.!=x", false),
            ("node.nothing==x", false),
            ("node.nothing!=x", false),
        ] {
            assert_eq!(Constraint::parse(text).unwrap().matches(&node()), expect, "{text}");
        }
    }

    #[test]
    fn a_role_is_what_the_node_is() {
        let member = |role, raft_id| {
            let mut node = Node { raft_id, ..node() };
            node.spec.role = role;
            Constraint::parse("node.role==manager").unwrap().matches(&node)
        };
        assert!(!member(Role::Worker, 0));
        // It has still to become one, and it still is one.
        assert!(member(Role::Manager, 0) && member(Role::Worker, 7));
        assert!(member(Role::Manager, 7));
    }

    #[test]
    fn a_node_without_an_address_has_none() {
        let mut node = node();
        node.status.addr = String::new();
        for (text, expect) in [
            ("node.ip==0.0.0.0", false),
            ("node.ip!=0.0.0.0", true),
            ("node.ip==10.0.0.0/8", false),
            ("node.ip!=10.0.0.0/8", true),
            ("node.ip!=266.17.9.41", false),
        ] {
            assert_eq!(Constraint::parse(text).unwrap().matches(&node), expect, "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in ["node.role=manager", "", "==x", "node.role==", "no de==x", "node.id==a,b", "1a==b"] {
            assert!(Constraint::parse(text).is_err(), "{text}");
        }
    }
}
