//! A task's sandbox: the container that holds its network namespace, host name, hosts and resolv.conf.
//!
//! It starts before the task with a namespace that nobody has wired, which the mesh then does, so the task's
//! own process never runs without a network. Docker is told to leave its network alone: even its "none" costs
//! more than half of a start. So hosts and resolv.conf are files of ours, a directory each sandbox, which
//! Docker shares with who joins it.
//!
//! Half of what a task's start costs Docker is the sandbox, so some are made ahead while nothing is asked of
//! the engine. A sandbox is a task's once it has the name that follows from the task's container; a spare has
//! another name.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bollard::{
    errors::Error,
    models::{
        ContainerCreateBody, ContainerSummaryStateEnum, HostConfig, HostConfigLogConfig, Mount, MountType,
    },
    query_parameters::{
        CreateContainerOptionsBuilder, ImportImageOptions, RenameContainerOptionsBuilder,
        StartContainerOptions,
    },
};
use futures::StreamExt;
use tokio::{fs, sync::watch, time::timeout};

use super::{DockerEngine, ID_LABEL, SANDBOX_LABEL, failed, of_node, pause, pid};
use crate::{
    engine::{EngineError, NewContainer, NewSandbox, Sandbox, chain},
    task::container::NODE_ID_LABEL,
};

/// The label with the name of the directory of a sandbox's files.
const FILES_LABEL: &str = "skep.sandbox.files";
/// Docker lets no two containers have one name, so this many characters of an id are enough.
const NAME_CHARS: usize = 25;
const NAME_PREFIX: &str = "skep-sandbox-";
const SPARE_PREFIX: &str = "skep-spare-";

/// Sandboxes made ahead: a burst of starts on one node. One that waits costs about 5 MB, most of it in Docker.
const SPARES_MAX: usize = 8;
/// They are made once nothing was asked of the engine for so long: a burst has its cores for itself.
const QUIET: Duration = Duration::from_secs(2);
/// After a spare could not be made.
const SPARE_RETRY: Duration = Duration::from_secs(30);

const HOSTS: &str = "hosts";
const RESOLV_CONF: &str = "resolv.conf";

/// What Docker calls the sandbox of a container of ours.
pub(super) fn name(id: &str) -> String {
    format!("{NAME_PREFIX}{}", id.get(..NAME_CHARS).unwrap_or(id))
}

/// The sandboxes of this node.
#[derive(Debug)]
pub(super) struct Sandboxes {
    node_id: String,
    /// The directories of their files lie here.
    dir: PathBuf,
    /// The directories of those that tasks have, by the sandbox's name.
    used: Mutex<BTreeMap<String, String>>,
    spares: Mutex<Vec<Spare>>,
    /// Told whenever something is asked of the engine.
    asked: watch::Sender<()>,
}

#[derive(Debug)]
struct Spare {
    docker_id: String,
    files: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sandboxes {
    pub(super) fn new(node_id: &str, dir: PathBuf) -> Self {
        Self {
            node_id: node_id.to_owned(),
            dir,
            used: Mutex::default(),
            spares: Mutex::default(),
            asked: watch::Sender::new(()),
        }
    }

    pub(super) fn node_id(&self) -> &str {
        &self.node_id
    }

    /// Something is asked of the engine: spares can wait.
    pub(super) fn asked(&self) {
        self.asked.send_replace(());
    }

    fn body(&self, hostname: Option<String>, files: &str) -> ContainerCreateBody {
        let labels = [(NODE_ID_LABEL, self.node_id.as_str()), (SANDBOX_LABEL, ""), (FILES_LABEL, files)];
        let dir = self.dir.join(files);
        let bind = |file: &str| Mount {
            typ: Some(MountType::BIND),
            source: Some(dir.join(file).to_string_lossy().into_owned()),
            target: Some(format!("/etc/{file}")),
            ..Mount::default()
        };
        ContainerCreateBody {
            hostname,
            image: Some(pause::IMAGE.to_owned()),
            // As process 1 it would not hear a SIGTERM.
            stop_signal: Some("SIGKILL".to_owned()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            // A namespace of its own with nothing in it, and no work of Docker's.
            network_disabled: Some(true),
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                cap_drop: Some(vec!["ALL".to_owned()]),
                log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
                mounts: Some(vec![bind(HOSTS), bind(RESOLV_CONF)]),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }

    /// A directory of its own with empty files.
    async fn make_files(&self) -> std::io::Result<String> {
        fs::create_dir_all(&self.dir).await?;
        for n in 0_u64.. {
            let name = n.to_string();
            match fs::create_dir(self.dir.join(&name)).await {
                Ok(()) => {
                    for file in [HOSTS, RESOLV_CONF] {
                        fs::write(self.dir.join(&name).join(file), "").await?;
                    }
                    return Ok(name);
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    async fn remove_files(&self, files: &str) {
        // If this fails, the next daemon sweeps it away.
        if let Err(e) = fs::remove_dir_all(self.dir.join(files)).await {
            tracing::debug!(files, err = %e, "a sandbox's files are left");
        }
    }

    /// Removes the directories that no sandbox has.
    async fn sweep_files(&self, known: &BTreeSet<String>) -> std::io::Result<()> {
        let mut found = match fs::read_dir(&self.dir).await {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        while let Some(entry) = found.next_entry().await? {
            if !entry.file_name().to_str().is_some_and(|name| known.contains(name)) {
                fs::remove_dir_all(entry.path()).await?;
            }
        }
        Ok(())
    }
}

fn disk(error: std::io::Error) -> EngineError {
    EngineError::Failed(format!("a sandbox's files: {error}").into())
}

impl DockerEngine {
    /// Makes and starts the sandbox of a container that is not there, in place of any that was left.
    pub(super) async fn make_sandbox(&self, sandbox: NewSandbox) -> Result<Sandbox, EngineError> {
        let name = name(&sandbox.id);
        if lock(&self.sandboxes.used).contains_key(&name) {
            self.drop_sandbox(&sandbox.id).await.map_err(failed)?;
        }
        // The host name of one made ahead is settled.
        while sandbox.hostname.is_none()
            && let Some(spare) = { lock(&self.sandboxes.spares).pop() }
        {
            match self.take(&spare, &name).await {
                Ok(Some(taken)) => {
                    lock(&self.sandboxes.used).insert(name, spare.files);
                    return Ok(taken);
                }
                Ok(None) => {}
                Err(e) => tracing::warn!(err = %e, "a sandbox made ahead cannot be taken"),
            }
            self.drop_spare(&spare).await.map_err(failed)?;
        }
        let (made, files) = self.start_sandbox(&name, sandbox.hostname).await?;
        lock(&self.sandboxes.used).insert(name.clone(), files);
        self.look_at(&made).await.map_err(failed)?.ok_or_else(|| ended_at_once(&name))
    }

    /// Gives a spare its task's name; `None` if it does not run any more.
    async fn take(&self, spare: &Spare, name: &str) -> Result<Option<Sandbox>, Error> {
        let options = RenameContainerOptionsBuilder::new().name(name).build();
        self.docker.rename_container(&spare.docker_id, options).await?;
        self.look_at(&spare.docker_id).await
    }

    async fn look_at(&self, docker_id: &str) -> Result<Option<Sandbox>, Error> {
        let Some(about) = self.inspect(docker_id).await? else { return Ok(None) };
        let hostname = about.config.as_ref().and_then(|config| config.hostname.clone()).unwrap_or_default();
        Ok(Some(Sandbox { pid: pid(&about), hostname }).filter(|sandbox| sandbox.pid != 0))
    }

    /// What Docker calls it, and the directory of its files.
    async fn start_sandbox(
        &self,
        name: &str,
        hostname: Option<String>,
    ) -> Result<(String, String), EngineError> {
        let files = self.sandboxes.make_files().await.map_err(disk)?;
        let made = self.try_start_sandbox(name, self.sandboxes.body(hostname, &files)).await;
        if made.is_err() {
            // Whatever came of it.
            self.force_remove(name).await.map_err(failed)?;
            self.sandboxes.remove_files(&files).await;
        }
        Ok((made?, files))
    }

    async fn try_start_sandbox(&self, name: &str, body: ContainerCreateBody) -> Result<String, EngineError> {
        let made = match self.create_sandbox(name, body.clone()).await {
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => {
                self.load_image().await?;
                self.create_sandbox(name, body).await
            }
            // A left-over: nobody has joined it, or it would have been found.
            Err(Error::DockerResponseServerError { status_code: 409, .. }) => {
                self.force_remove(name).await.map_err(failed)?;
                self.create_sandbox(name, body).await
            }
            other => other,
        };
        let id = made.map_err(failed)?;
        self.docker.start_container(&id, None::<StartContainerOptions>).await.map_err(failed)?;
        Ok(id)
    }

    async fn create_sandbox(&self, name: &str, body: ContainerCreateBody) -> Result<String, Error> {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        Ok(self.docker.create_container(Some(options), body).await?.id)
    }

    /// Writes what follows from the container into its sandbox's files, which Docker's containers see at once.
    pub(super) async fn write_files(&self, container: &NewContainer) -> Result<(), EngineError> {
        let name = name(&container.id);
        let files = lock(&self.sandboxes.used).get(&name).cloned();
        let files = files.ok_or_else(|| EngineError::Failed(format!("there is no {name}").into()))?;
        let dir = self.sandboxes.dir.join(files);
        for (file, text) in [(HOSTS, &container.hosts), (RESOLV_CONF, &container.resolv_conf)] {
            fs::write(dir.join(file), text).await.map_err(disk)?;
        }
        Ok(())
    }

    /// One that is not there is fine.
    pub(super) async fn drop_sandbox(&self, id: &str) -> Result<(), Error> {
        let name = name(id);
        self.force_remove(&name).await?;
        let files = lock(&self.sandboxes.used).remove(&name);
        if let Some(files) = files {
            self.sandboxes.remove_files(&files).await;
        }
        Ok(())
    }

    async fn drop_spare(&self, spare: &Spare) -> Result<(), Error> {
        self.force_remove(&spare.docker_id).await?;
        self.sandboxes.remove_files(&spare.files).await;
        Ok(())
    }

    /// Keeps some sandboxes ready while nothing else is to be done.
    pub(super) async fn keep_spares(&self) {
        let mut asked = self.sandboxes.asked.subscribe();
        loop {
            if timeout(QUIET, asked.changed()).await.is_ok() {
                continue;
            }
            while lock(&self.sandboxes.spares).len() < SPARES_MAX && !asked.has_changed().unwrap_or(true) {
                if let Err(e) = self.make_spare().await {
                    tracing::warn!(err = chain(&e), "no sandbox can be made ahead");
                    tokio::time::sleep(SPARE_RETRY).await;
                }
            }
            if asked.changed().await.is_err() {
                return;
            }
        }
    }

    async fn make_spare(&self) -> Result<(), EngineError> {
        // Docker's names of those that were taken are free again; one that is in use is a left-over.
        let n = lock(&self.sandboxes.spares).len();
        let (docker_id, files) = self.start_sandbox(&format!("{SPARE_PREFIX}{n}"), None).await?;
        lock(&self.sandboxes.spares).push(Spare { docker_id, files });
        Ok(())
    }

    /// Takes up the sandboxes that an earlier daemon left, and removes those that nobody uses: what a crash in
    /// between left.
    pub(crate) async fn sweep(&self) -> Result<(), EngineError> {
        let ours = |label: &str| [label.to_owned(), of_node(&self.sandboxes.node_id)];
        let tasks = self.labelled(&ours(ID_LABEL)).await.map_err(failed)?;
        let used: BTreeSet<String> =
            tasks.iter().filter_map(|task| Some(name(task.labels.get(ID_LABEL)?))).collect();
        let mut known = BTreeSet::new();
        for found in self.labelled(&ours(SANDBOX_LABEL)).await.map_err(failed)? {
            let files = found.labels.get(FILES_LABEL).cloned().unwrap_or_default();
            let is_running = found.state == Some(ContainerSummaryStateEnum::RUNNING);
            if used.contains(&found.name) {
                lock(&self.sandboxes.used).insert(found.name, files.clone());
            } else if found.name.starts_with(SPARE_PREFIX) && is_running {
                lock(&self.sandboxes.spares).push(Spare { docker_id: found.id, files: files.clone() });
            } else {
                self.force_remove(&found.id).await.map_err(failed)?;
                continue;
            }
            known.insert(files);
        }
        self.sandboxes.sweep_files(&known).await.map_err(disk)
    }

    async fn load_image(&self) -> Result<(), EngineError> {
        let archive = pause::archive().map_err(|e| EngineError::Failed(e.into()))?;
        let options = ImportImageOptions { quiet: true, ..ImportImageOptions::default() };
        let mut loading = self.docker.import_image(options, bollard::body_full(archive.into()), None).boxed();
        while let Some(step) = loading.next().await {
            step.map_err(failed)?;
        }
        Ok(())
    }
}

fn ended_at_once(name: &str) -> EngineError {
    EngineError::Failed(format!("the sandbox {name} ended at once").into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn each_sandbox_has_files_of_its_own_and_left_ones_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let all = Sandboxes::new("n", dir.path().join("sandboxes"));
        all.sweep_files(&BTreeSet::new()).await.unwrap();
        let names = [all.make_files().await.unwrap(), all.make_files().await.unwrap()];
        assert_ne!(names[0], names[1]);
        all.sweep_files(&BTreeSet::from([names[1].clone()])).await.unwrap();
        assert!(!all.dir.join(&names[0]).exists());
        assert!(all.dir.join(&names[1]).join(HOSTS).is_file());
        all.remove_files(&names[1]).await;
        assert!(!all.dir.join(&names[1]).exists());
    }

    #[test]
    fn a_sandbox_has_no_network_of_dockers_and_is_told_from_a_task() {
        let all = Sandboxes::new("n", PathBuf::from("/s"));
        let made = serde_json::to_value(all.body(Some("web".into()), "7")).unwrap();
        assert_eq!(made["Hostname"], "web");
        assert_eq!(made["NetworkDisabled"], true);
        assert_eq!(
            made["Labels"],
            json!({ "com.docker.swarm.node.id": "n", "skep.sandbox": "", "skep.sandbox.files": "7" })
        );
        assert_eq!(
            made["HostConfig"]["Mounts"][0],
            json!({ "Type": "bind", "Source": "/s/7/hosts", "Target": "/etc/hosts" })
        );
        assert_eq!(name(&"a".repeat(64)), format!("skep-sandbox-{}", "a".repeat(25)));
    }
}
