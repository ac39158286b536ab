//! Which engine runs this node's tasks: what was asked for, what ran them before, what is there.
//!
//! A node never changes its engine while tasks of the other one are left: nobody would look after them.

use std::{path::Path, str::FromStr, time::Duration};

use anyhow::{Context as _, bail};
use skep_agent::{DockerEngine, runtime};
use skep_link::Identity;

use super::settings::Settings;

/// The name of the file, below the state directory, that says which engine has this node's tasks.
const FILE: &str = "engine-kind";
/// On a machine that starts, the Docker Engine may come after us.
const DOCKER_WAIT_MAX: Duration = Duration::from_secs(15);
const DOCKER_RETRY: Duration = Duration::from_millis(500);

/// `--engine`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum EngineFlag {
    /// The Docker Engine where its socket answers, else the embedded engine
    #[default]
    Auto,
    /// The Docker Engine of this machine
    Docker,
    /// The engine that is part of skep: nothing to install
    Embedded,
}

/// An engine for tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Docker,
    Embedded,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Embedded => "embedded",
        }
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text.trim() {
            "docker" => Ok(Self::Docker),
            "embedded" => Ok(Self::Embedded),
            other => bail!("'{other}' is no engine: docker or embedded expected"),
        }
    }
}

/// What the choice depends on.
#[derive(Clone, Copy, Debug)]
struct Situation {
    asked: EngineFlag,
    /// The engine that ran this node's tasks last.
    last: Option<Kind>,
    /// It still has some, or nobody can tell.
    has_tasks: bool,
    docker_answers: bool,
}

/// The engine to take, or what forbids it.
fn choose(at: Situation) -> Result<Kind, String> {
    let wanted = match (at.asked, at.last) {
        (EngineFlag::Docker, _) => Kind::Docker,
        (EngineFlag::Embedded, _) => Kind::Embedded,
        // Whatever has come or gone meanwhile, the tasks are there.
        (EngineFlag::Auto, Some(last)) if at.has_tasks => last,
        (EngineFlag::Auto, _) if at.docker_answers => Kind::Docker,
        (EngineFlag::Auto, _) => Kind::Embedded,
    };
    if let Some(last) = at.last.filter(|last| at.has_tasks && *last != wanted) {
        return Err(format!(
            "--engine {}: this node has tasks on the {} engine; drain the node first (or leave the swarm), or start \
             with --engine {}",
            wanted.as_str(),
            last.as_str(),
            last.as_str(),
        ));
    }
    if wanted == Kind::Docker && !at.docker_answers {
        return Err("the Docker Engine does not answer".to_owned());
    }
    Ok(wanted)
}

/// The Docker Engine if it is to run this node's tasks; `None` for the embedded one.
pub(super) async fn engine(
    settings: &Settings,
    node_id: Option<&str>,
    embedded: &runtime::Engine,
) -> anyhow::Result<Option<DockerEngine>> {
    let last = remembered(&settings.state_dir)?;
    let may_be_docker = settings.engine != EngineFlag::Embedded || last == Some(Kind::Docker);
    let is_sure = settings.engine == EngineFlag::Docker || last == Some(Kind::Docker);
    let docker = match may_be_docker {
        true => Some(connect(settings, is_sure).await),
        false => None,
    };
    let (docker, why_not) = match docker {
        Some(Ok(docker)) => (Some(docker), None),
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    };
    let has_tasks = match (last, node_id, &docker) {
        (None, ..) | (_, None, _) => false,
        (Some(Kind::Embedded), Some(_), _) => !embedded.list().is_empty(),
        (Some(Kind::Docker), Some(node_id), Some(docker)) => docker.n_tasks(node_id).await? > 0,
        (Some(Kind::Docker), Some(_), None) => true,
    };
    let at = Situation { asked: settings.engine, last, has_tasks, docker_answers: docker.is_some() };
    let kind = match (choose(at), why_not) {
        (Ok(kind), _) => kind,
        (Err(words), Some(why)) => return Err(why).context(words),
        (Err(words), None) => bail!(words),
    };
    let docker = docker.filter(|_| kind == Kind::Docker);
    match &docker {
        Some(docker) => {
            let (version, socket) = (&docker.about().version, docker.socket().display());
            tracing::info!(engine = kind.as_str(), version, %socket, "tasks run on the Docker Engine");
        }
        None => tracing::info!(engine = kind.as_str(), "tasks run on the embedded engine"),
    }
    Ok(docker)
}

/// Waits a while for a Docker Engine that has to be there.
async fn connect(settings: &Settings, is_sure: bool) -> Result<DockerEngine, skep_agent::DockerError> {
    let until = tokio::time::Instant::now() + DOCKER_WAIT_MAX;
    loop {
        match DockerEngine::connect(&settings.docker_socket).await {
            Err(_) if is_sure && tokio::time::Instant::now() < until => {
                tokio::time::sleep(DOCKER_RETRY).await;
            }
            other => return other,
        }
    }
}

fn remembered(state_dir: &Path) -> anyhow::Result<Option<Kind>> {
    let path = state_dir.join(FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => text.parse().map(Some).with_context(|| format!("read {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Before the first task: this engine has them.
pub(super) fn remember(state_dir: &Path, kind: Kind) -> anyhow::Result<()> {
    let (path, new) = (state_dir.join(FILE), state_dir.join("engine-kind.new"));
    std::fs::write(&new, kind.as_str())
        .and_then(|()| std::fs::rename(&new, &path))
        .with_context(|| format!("write {}", path.display()))
}

/// The node left its swarm.
pub(super) fn forget(state_dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(state_dir.join(FILE)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A node that could not come back as a member still has the containers of its tasks.
pub(super) async fn remove_tasks(
    docker: Option<&DockerEngine>,
    embedded: &runtime::Engine,
    state_dir: &Path,
) {
    if let (Some(docker), Ok(Some(node_id))) = (docker, Identity::node_id_in(&state_dir.join("identity")))
        && let Err(error) = docker.remove_tasks(&node_id).await
    {
        tracing::error!(err = %error, "could not remove the containers of tasks");
    }
    let is_a_tasks = |c: &runtime::ContainerInfo| c.labels.contains_key("com.docker.swarm.task.id");
    for container in embedded.list().into_iter().filter(is_a_tasks) {
        if let Err(error) = embedded.remove(&container.id).await {
            tracing::error!(err = %error, "could not remove the container of a task");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_never_left_on_the_other_engine() {
        use EngineFlag::{Auto, Docker, Embedded};
        let on = |kind| Some(kind);
        for (asked, last, has_tasks, docker_answers, expect) in [
            (Auto, None, false, true, Ok(Kind::Docker)),
            (Auto, None, false, false, Ok(Kind::Embedded)),
            (Docker, None, false, false, Err("the Docker Engine does not answer")),
            (Embedded, None, false, true, Ok(Kind::Embedded)),
            // Docker was installed later; or it is slow to start, or was removed.
            (Auto, on(Kind::Embedded), true, true, Ok(Kind::Embedded)),
            (Auto, on(Kind::Embedded), false, true, Ok(Kind::Docker)),
            (Auto, on(Kind::Docker), true, false, Err("the Docker Engine does not answer")),
            (Auto, on(Kind::Docker), true, true, Ok(Kind::Docker)),
            (Auto, on(Kind::Docker), false, false, Ok(Kind::Embedded)),
            (
                Docker,
                on(Kind::Embedded),
                true,
                true,
                Err("--engine docker: this node has tasks on the embedded engine"),
            ),
            (
                Embedded,
                on(Kind::Docker),
                true,
                true,
                Err("--engine embedded: this node has tasks on the docker engine"),
            ),
            (
                Embedded,
                on(Kind::Docker),
                true,
                false,
                Err("--engine embedded: this node has tasks on the docker engine"),
            ),
            (Embedded, on(Kind::Docker), false, true, Ok(Kind::Embedded)),
        ] {
            let at = Situation { asked, last, has_tasks, docker_answers };
            match (choose(at), expect) {
                (Ok(got), Ok(expect)) => assert_eq!(got, expect, "{at:?}"),
                (Err(got), Err(expect)) => assert!(got.starts_with(expect), "{at:?}: {got}"),
                (got, expect) => panic!("{at:?}: {got:?} instead of {expect:?}"),
            }
        }
    }

    #[test]
    fn the_engine_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(remembered(dir.path()).unwrap(), None);
        remember(dir.path(), Kind::Docker).unwrap();
        assert_eq!(remembered(dir.path()).unwrap(), Some(Kind::Docker));
        std::fs::write(dir.path().join(FILE), "podman").unwrap();
        assert!(format!("{:#}", remembered(dir.path()).unwrap_err()).contains("'podman' is no engine"));
    }
}
