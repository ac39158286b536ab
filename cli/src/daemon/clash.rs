//! A Docker Engine that is in a swarm of its own: which of its ports ours would want too.

use skep_agent::{DockerEngine, OtherSwarm};
use skep_api::{ApiError, ErrorKind};

use super::address::CONTROL_PORT;

/// What to do about it.
const ADVICE: &str = "leave that swarm (docker -H unix:///var/run/docker.sock swarm leave), or give other ports: this one by \
     --listen-addr ADDRESS:PORT (TCP), that one by --data-path-port PORT when it is made (UDP)";

/// Refuses ports that a swarm of the Docker Engine's own has: where ours would listen (TCP), and its data
/// path (UDP).
pub(super) async fn check(
    docker: Option<&DockerEngine>,
    listen: u16,
    data_path: u32,
) -> Result<(), ApiError> {
    let Some(docker) = docker else { return Ok(()) };
    let other = docker.other_swarm().await;
    let other = other.map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?;
    if let Some(other) = other {
        check_ports(other, listen, data_path)?;
        tracing::warn!("the Docker Engine of this machine is in a swarm of its own, beside this one");
    }
    Ok(())
}

fn check_ports(other: OtherSwarm, listen: u16, data_path: u32) -> Result<(), ApiError> {
    let mut taken = Vec::new();
    if other.is_manager && listen == CONTROL_PORT {
        taken.push(format!("TCP port {CONTROL_PORT}"));
    }
    if other.data_path_port == data_path {
        taken.push(format!("UDP port {data_path}"));
    }
    if taken.is_empty() {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorKind::FailedPrecondition,
        format!(
            "the Docker Engine of this machine is in a swarm of its own, which has {}: {ADVICE}",
            taken.join(" and ")
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_the_other_swarm_are_named() {
        let swarm = |is_manager| OtherSwarm { is_manager, data_path_port: 4789 };
        for (is_manager, listen, data_path, expect) in [
            (true, 2377, 4789, Some("TCP port 2377 and UDP port 4789: leave that swarm")),
            (true, 2377, 4790, Some("which has TCP port 2377: leave that swarm")),
            (false, 2377, 4789, Some("which has UDP port 4789: leave that swarm")),
            (true, 2378, 4790, None),
            (false, 2377, 4790, None),
        ] {
            let got = check_ports(swarm(is_manager), listen, data_path).err().map(|error| error.message);
            match (&got, expect) {
                (None, None) => {}
                (Some(got), Some(expect)) => assert!(got.contains(expect), "{got}"),
                (got, expect) => panic!("{got:?} instead of {expect:?}"),
            }
        }
    }
}
