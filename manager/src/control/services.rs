//! Writes on services.

mod ports;
mod rebalance;
mod rollout;
pub(crate) mod update;

use std::sync::Arc;

use skep_api::{
    ApiError, ErrorKind, Secret, ServiceId, Timestamp, id::IdSource, object::Service, spec::ServiceSpec,
    validate,
};
use skep_store::{Change, Guard, GuardKind, View};

pub(super) use self::{
    ports::check_ports,
    update::{check_level, needs_level_2},
};
use self::{
    ports::named_ports,
    update::{keeps_name_and_mode, no_previous_spec, rolled_back, updated},
};
use super::{
    Control, CreatedService,
    networks::{network_note, resolve},
    out_of_sequence,
};
use crate::{SystemIds, names};

pub use rollout::RollOut;
#[cfg(test)]
pub(crate) use rollout::{aborted, paused, resumed};

impl Control {
    /// Creates a service. Its tasks come with the leader's next pass.
    ///
    /// # Errors
    /// The spec is wrong or asks for what is not honoured; the name or a port is taken; no leader.
    pub async fn create_service(
        &self,
        mut spec: ServiceSpec,
        registry_auth: Secret,
    ) -> Result<CreatedService, ApiError> {
        if spec.name.is_empty() {
            spec.name = names::invent(SystemIds::default().next_id());
        }
        validate::service(&spec)?;
        spec.fill_in();
        let id = ServiceId(SystemIds::default().next_id());
        let now = Timestamp((self.shared.clock)());
        let decide = |view: &View| {
            // At every level: below 2 the store lets through what is made at once through two managers.
            if view.service_named_alike(&spec.name).is_some() {
                return Err(already_exists(&name_taken(&spec.name)));
            }
            let mut spec = spec.clone();
            resolve(view, &mut spec)?;
            check_ports(view, &spec, id)?;
            check_level(view, &spec)?;
            let warnings = network_note(view, &spec).into_iter().collect();
            let registry_auth = registry_auth.clone();
            let ports = named_ports(view, &spec, id).unwrap_or_default();
            let when = |is_it: bool| if is_it { now } else { Timestamp::ZERO };
            let last_execution = when(spec.mode().is_job() && !spec.is_scheduled());
            let cron_last = when(spec.is_scheduled());
            let spec = Arc::new(spec);
            let service =
                Service { id, spec, ports, registry_auth, last_execution, cron_last, ..Service::default() };
            Ok((service, warnings))
        };
        let (service, warnings) = self.decide(decide).await?;
        let guard = Guard { kind: GuardKind::Service, id: id.0, version: 0 };
        let written = self.write(vec![guard], vec![Change::PutService(Arc::new(service))]).await;
        written.map_err(|error| {
            let is_taken = error.kind == ErrorKind::AlreadyExists;
            if is_taken { already_exists(&error.message) } else { error }
        })?;
        Ok(CreatedService { id, warnings })
    }

    /// Updates a service from the version that the caller has seen; `None` rolls back to the previous spec.
    ///
    /// # Errors
    /// As for creation; a stale version; a changed name or mode; nothing to roll back to.
    pub async fn update_service(
        &self,
        id: ServiceId,
        version: u64,
        spec: Option<ServiceSpec>,
        registry_auth: RegistryAuth,
    ) -> Result<Vec<String>, ApiError> {
        let spec = spec
            .map(|mut spec| {
                validate::service(&spec)?;
                spec.fill_in();
                Ok::<_, ApiError>(spec)
            })
            .transpose()?;
        let now = Timestamp((self.shared.clock)());
        // Before the version, as Swarm does: no newer one would be taken either.
        let allowed = |old: &Service| spec.as_ref().map_or(Ok(()), |spec| keeps_name_and_mode(old, spec));
        self.change_service_if(id, version, allowed, |view, old| {
            let level = view.feature_level();
            match spec.clone() {
                Some(mut spec) => {
                    resolve(view, &mut spec)?;
                    check_level(view, &spec)?;
                    updated(old, spec, registry_auth.clone(), level, now)
                }
                None => rolled_back(old, level, now),
            }
        })
        .await
    }

    /// Writes what `change` makes of a service, if it is at that version.
    async fn change_service(
        &self,
        id: ServiceId,
        version: u64,
        change: impl Fn(&View, &Service) -> Result<Service, ApiError>,
    ) -> Result<Vec<String>, ApiError> {
        self.change_service_if(id, version, |_| Ok(()), change).await
    }

    /// The same, for what is `allowed` of the service at any version.
    async fn change_service_if(
        &self,
        id: ServiceId,
        version: u64,
        allowed: impl Fn(&Service) -> Result<(), ApiError>,
        change: impl Fn(&View, &Service) -> Result<Service, ApiError>,
    ) -> Result<Vec<String>, ApiError> {
        let decide = |view: &View| {
            let old =
                view.service(id).ok_or_else(|| ApiError::not_found(format!("service {id} not found")))?;
            allowed(old)?;
            if old.meta.version != version {
                return Err(out_of_sequence());
            }
            let new = change(view, old)?;
            check_ports(view, &new.spec, id)?;
            let warnings = network_note(view, &new.spec).into_iter().collect();
            let ports = named_ports(view, &new.spec, id).unwrap_or_else(|| Arc::clone(&new.ports));
            Ok((Service { ports, ..new }, warnings))
        };
        let (new, warnings) = self.decide(decide).await?;
        let guard = Guard { kind: GuardKind::Service, id: id.0, version };
        self.write(vec![guard], vec![Change::PutService(Arc::new(new))]).await?;
        Ok(warnings)
    }

    /// Removes a service; its tasks are stopped and removed by the leader.
    ///
    /// # Errors
    /// No such service; no leader.
    pub async fn remove_service(&self, id: ServiceId) -> Result<(), ApiError> {
        let view = self.view().await?;
        if view.service(id).is_none() {
            return Err(ApiError::not_found(format!("service {id} not found")));
        }
        self.write(Vec::new(), vec![Change::DeleteService(id)]).await
    }
}

fn name_taken(name: &str) -> String {
    format!("name conflicts with an existing object: service {name} already exists")
}

fn already_exists(words: &str) -> ApiError {
    ApiError::new(ErrorKind::AlreadyExists, format!("rpc error: code = AlreadyExists desc = {words}"))
}

/// The credentials for the images of an updated service (`MB:daemon/cluster/services.go`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RegistryAuth {
    /// These, from now on.
    New(Secret),
    /// Those of the present spec.
    OfSpec,
    /// Those of the previous spec.
    OfPreviousSpec,
}

impl RegistryAuth {
    fn of(self, old: &Service) -> Result<Secret, ApiError> {
        match self {
            Self::New(secret) => Ok(secret),
            Self::OfSpec => Ok(old.registry_auth.clone()),
            Self::OfPreviousSpec if old.previous_spec.is_none() => Err(no_previous_spec(old)),
            Self::OfPreviousSpec => Ok(old.previous_registry_auth.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::first_manager;

    fn on_port(name: &str) -> ServiceSpec {
        let text = format!(
            r#"{{"Name":"{name}","TaskTemplate":{{"ContainerSpec":{{"Image":"busybox"}}}},
                "EndpointSpec":{{"Ports":[{{"TargetPort":80,"PublishedPort":8080}}]}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_many_that_ask_for_a_port_at_once_one_gets_it_and_can_be_updated() {
        let (manager, _, _dir) = first_manager().await;
        let control = manager.control();
        let names: Vec<String> = (0..8).map(|n| format!("web-{n}")).collect();
        let asked = names.iter().map(|name| control.create_service(on_port(name), Secret::default()));
        let answers = futures::future::join_all(asked).await;
        let made: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
        assert_eq!(made.len(), 1, "{answers:?}");
        for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            assert!(error.message.contains("port '8080' is already in use by service"), "{error:?}");
        }
        let id = made[0].id;
        let view = control.view().await.unwrap();
        let service = view.service(id).unwrap();
        let spec = (*service.spec).clone();
        let auth = RegistryAuth::OfSpec;
        control.update_service(id, service.meta.version, Some(spec), auth).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_can_never_be_is_refused_before_an_old_version() {
        let (manager, _, _dir) = first_manager().await;
        let control = manager.control();
        let spec = on_port("web");
        let id = control.create_service(spec.clone(), Secret::default()).await.unwrap().id;
        let taken = control.create_service(spec.clone(), Secret::default()).await.unwrap_err();
        assert_eq!(
            (taken.http_status(), taken.message.as_str()),
            (
                409,
                "rpc error: code = AlreadyExists desc = name conflicts with an existing object: service web already exists"
            )
        );
        let alike = control.create_service(on_port("Web"), Secret::default()).await.unwrap_err();
        assert!(alike.message.ends_with("service Web already exists"), "{alike}");
        let renamed = on_port("api");
        let global = ServiceSpec { mode: serde_json::from_str(r#"{"Global":{}}"#).unwrap(), ..spec.clone() };
        for (spec, status, expect) in [
            (renamed, 501, "rpc error: code = Unimplemented desc = renaming services is not supported"),
            (global, 501, "rpc error: code = Unimplemented desc = service mode change is not allowed"),
            (spec, 500, "rpc error: code = Unknown desc = update out of sequence"),
        ] {
            let error = control.update_service(id, 1, Some(spec), RegistryAuth::OfSpec).await.unwrap_err();
            assert_eq!((error.http_status(), error.message.as_str()), (status, expect));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_scheduled_job_does_not_run_when_it_is_made() {
        let (manager, _, _dir) = first_manager().await;
        let control = manager.control();
        let text = r#"{"Name":"job","TaskTemplate":{"ContainerSpec":{"Image":"busybox"}},
            "Mode":{"ReplicatedJob":{}},"Labels":{"skep.cron":"0 0 29 2 *"}}"#;
        let spec: ServiceSpec = serde_json::from_str(text).unwrap();
        let id = control.create_service(spec.clone(), Secret::default()).await.unwrap().id;
        let made = control.view().await.unwrap().service(id).cloned().unwrap();
        assert!(made.is_between_runs() && made.last_execution.is_zero() && !made.cron_last.is_zero());
        let mut bad = spec;
        "other".clone_into(&mut bad.name);
        bad.labels = Some([("skep.cron".to_owned(), "0 0 30 2 *".to_owned())].into());
        let error = control.create_service(bad, Secret::default()).await.unwrap_err();
        assert_eq!(error.message, "Labels.skep.cron: invalid value '0 0 30 2 *': that time never comes");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_update_of_a_job_is_an_iteration() {
        let (manager, _, _dir) = first_manager().await;
        let control = manager.control();
        let text = r#"{"Name":"job","TaskTemplate":{"ContainerSpec":{"Image":"busybox"}},
            "Mode":{"ReplicatedJob":{"MaxConcurrent":2}}}"#;
        let id =
            control.create_service(serde_json::from_str(text).unwrap(), Secret::default()).await.unwrap().id;
        let first = control.view().await.unwrap().service(id).cloned().unwrap();
        assert_eq!(first.spec.mode(), skep_api::spec::Mode::ReplicatedJob { concurrent: 2, total: 2 });
        assert!(!first.last_execution.is_zero() && first.job_iteration == 0);
        // Also with the spec that it has. The leader may write it in between.
        let update = async |spec: &ServiceSpec| loop {
            let now = control.view().await.unwrap().service(id).cloned().unwrap();
            let auth = RegistryAuth::OfSpec;
            match control.update_service(id, now.meta.version, Some(spec.clone()), auth).await {
                Err(error) if error.message.contains("out of sequence") => {}
                done => break done,
            }
        };
        update(&first.spec).await.unwrap();
        let second = control.view().await.unwrap().service(id).cloned().unwrap();
        assert_eq!((second.job_iteration, second.spec_version), (1, first.spec_version));
        assert!(second.last_execution >= first.last_execution);
        // A mode is for life.
        let mut other = (*first.spec).clone();
        other.mode = None;
        let error = update(&other).await.unwrap_err();
        assert_eq!(
            error.message,
            "rpc error: code = Unimplemented desc = service mode change is not allowed"
        );
    }
}
