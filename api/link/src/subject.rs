//! Who a certificate says its node is: CN node id, OU role, O cluster id, and how long it is valid.

use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

/// What a node may be in the swarm, as its certificate says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Takes part in consensus and answers agents.
    Manager,
    /// Runs tasks only.
    Worker,
}

impl Role {
    /// The word in a certificate's OU; also a DNS name in its SAN.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Manager => "swarm-manager",
            Self::Worker => "swarm-worker",
        }
    }

    fn from_unit(unit: &str) -> Option<Self> {
        [Self::Manager, Self::Worker].into_iter().find(|role| role.unit() == unit)
    }
}

/// The facts of a node's certificate. Says nothing of who signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) node_id: String,
    pub(crate) role: Role,
    pub(crate) cluster_id: String,
    /// Unix seconds.
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SubjectError {
    #[error("not an X.509 certificate")]
    NotX509,
    #[error("the certificate's subject has no {0}")]
    Missing(&'static str),
    #[error("the certificate's OU is neither swarm-manager nor swarm-worker")]
    Role,
}

impl Subject {
    pub(crate) fn of_der(der: &[u8]) -> Result<Self, SubjectError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| SubjectError::NotX509)?;
        let name: &X509Name<'_> = certificate.subject();
        let unit = first(name.iter_organizational_unit()).ok_or(SubjectError::Missing("OU (role)"))?;
        Ok(Self {
            node_id: first(name.iter_common_name()).ok_or(SubjectError::Missing("CN (node id)"))?,
            role: Role::from_unit(&unit).ok_or(SubjectError::Role)?,
            cluster_id: first(name.iter_organization()).ok_or(SubjectError::Missing("O (cluster id)"))?,
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }
}

fn first<'a>(
    mut attributes: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'a>>,
) -> Option<String> {
    let text = attributes.next()?.as_str().ok()?;
    (!text.is_empty()).then(|| text.to_owned())
}
