//! Task states: they only go forward; of two reports the greater one is right.

use std::fmt;

/// How far a task has come, or where we want it to go. Numbers and order are Swarm's
/// (`SK:api/types.proto`), spaced so that new ones fit between.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[repr(u16)]
pub enum TaskState {
    /// Created.
    New = 0,
    /// Allocated, waits for a node.
    Pending = 64,
    /// Has a node.
    Assigned = 192,
    /// The agent knows it.
    Accepted = 256,
    /// The agent fetches what it needs.
    Preparing = 320,
    /// Could start at once.
    Ready = 384,
    /// Being started.
    Starting = 448,
    /// Runs.
    Running = 512,
    /// Ended with success.
    Complete = 576,
    /// Was ended by us.
    Shutdown = 640,
    /// Ended with an error after it was started.
    Failed = 704,
    /// Could not be started here.
    Rejected = 768,
    /// To be removed altogether (a desired state).
    Remove = 800,
    /// Its node was lost for good.
    Orphaned = 832,
}

impl TaskState {
    /// All states in order.
    pub const ALL: [Self; 14] = [
        Self::New,
        Self::Pending,
        Self::Assigned,
        Self::Accepted,
        Self::Preparing,
        Self::Ready,
        Self::Starting,
        Self::Running,
        Self::Complete,
        Self::Shutdown,
        Self::Failed,
        Self::Rejected,
        Self::Remove,
        Self::Orphaned,
    ];

    /// The Engine API's word, lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Accepted => "accepted",
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Shutdown => "shutdown",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Remove => "remove",
            Self::Orphaned => "orphaned",
        }
    }

    /// The stored number; `None` for one that this build does not know.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|state| u32::from(*state as u16) == number)
    }

    /// The number as stored.
    #[must_use]
    pub fn number(self) -> u32 {
        u32::from(self as u16)
    }

    /// Past RUNNING: nothing of it runs any more.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        self > Self::Running
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
