//! What is promised (section 13 of the design), each promise in a file of its own. There is none for secrets
//! (8), which do not exist yet. Beside them what Swarm's rules say of attempts, jobs and placement.

pub(crate) mod attempts;
pub(crate) mod i01_acknowledged_writes_survive;
pub(crate) mod i02_conflicts_and_names;
pub(crate) mod i03_never_back;
pub(crate) mod i04_one_task_a_slot;
pub(crate) mod i05_parallelism;
pub(crate) mod i06_it_heals;
pub(crate) mod i07_mesh_tables;
pub(crate) mod i09_own_tasks_alone;
pub(crate) mod i10_tasks_run_on;
pub(crate) mod jobs;
pub(crate) mod placement;
