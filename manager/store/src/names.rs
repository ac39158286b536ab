//! Names of services in an order in which those that differ by case alone lie together.

use std::{borrow::Borrow, cmp::Ordering, sync::Arc};

use skep_api::spec::ServiceSpec;

/// What has the name of a service.
pub(crate) trait Named {
    fn name(&self) -> &str;
}

/// The name of a service, where its spec has it: another copy of each would be as large as all else of an index.
#[derive(Clone, Debug)]
pub(crate) struct ServiceName(Arc<ServiceSpec>);

impl ServiceName {
    pub(crate) fn of(spec: &Arc<ServiceSpec>) -> Self {
        Self(Arc::clone(spec))
    }
}

impl Named for ServiceName {
    fn name(&self) -> &str {
        &self.0.name
    }
}

impl Named for &str {
    fn name(&self) -> &str {
        self
    }
}

/// Without regard to case first. Of names that are alike then, the one in capitals is the least.
fn compare(a: &str, b: &str) -> Ordering {
    folded(a).cmp(folded(b)).then_with(|| a.cmp(b))
}

fn folded(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().map(|byte| byte.to_ascii_lowercase())
}

impl PartialEq for dyn Named + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for dyn Named + '_ {}

impl PartialOrd for dyn Named + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Named + '_ {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self.name(), other.name())
    }
}

impl PartialEq for ServiceName {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for ServiceName {}

impl PartialOrd for ServiceName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ServiceName {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(self.name(), other.name())
    }
}

impl<'a> Borrow<dyn Named + 'a> for ServiceName {
    fn borrow(&self) -> &(dyn Named + 'a) {
        self
    }
}

#[cfg(test)]
mod tests {
    use skep_api::{Id, ServiceId, Timestamp, object::Service};

    use super::*;
    use crate::View;

    fn view(names: &[&str]) -> View {
        let mut view = View::default();
        for (name, id) in names.iter().zip(1..) {
            let spec = Arc::new(ServiceSpec { name: (*name).to_owned(), ..ServiceSpec::default() });
            let service = Service { id: ServiceId(Id(id)), spec, ..Service::default() };
            view.put_service(&Arc::new(service), Timestamp(1)).unwrap();
        }
        view
    }

    #[track_caller]
    fn check(names: &[&str], name: &str, alike: Option<&str>) {
        let view = view(names);
        let found = |service: Option<&Arc<Service>>| service.map(|service| service.spec.name.clone());
        assert_eq!(found(view.service_named_alike(name)).as_deref(), alike, "{name} among {names:?}");
        let same = names.iter().find(|own| **own == name).copied();
        assert_eq!(found(view.service_by_name(name)).as_deref(), same, "{name} among {names:?}");
    }

    #[test]
    fn a_name_is_found_by_others_that_differ_by_case_alone() {
        for all in [["web", "Wea", "web2"], ["web2", "wea", "web"]] {
            check(&all, "web", Some("web"));
            check(&all, "WEB", Some("web"));
            check(&all, "wEB2", Some("web2"));
            check(&all, "we", None);
            check(&all, "web3", None);
            check(&all, "x", None);
        }
        // As a state of before may have them: itself if it is there, else any.
        let all = ["weB", "Web", "web"];
        check(&all, "web", Some("web"));
        check(&all, "weB", Some("weB"));
        check(&all, "WEB", Some("Web"));
        check(&["a_b"], "A_B", Some("a_b"));
        check(&[], "a", None);
    }
}
