//! Nodes in the order in which they are tried, so that those which are full are passed over in blocks.
//!
//! A sorted list cut into short blocks; each knows the most that any of its nodes has left.

use skep_api::NodeId;

use crate::NodeInfo;

/// Entries of a block at most: a short move of memory for a change, a short list of blocks for a search.
const BLOCK_MAX: usize = 128;

/// Where a node is in the picture.
pub(crate) type Handle = u32;

/// What the order knows of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) n_tasks: u64,
    pub(crate) id: NodeId,
    pub(crate) handle: Handle,
    nano_cpus: i64,
    memory_bytes: i64,
}

impl Entry {
    pub(crate) fn new(handle: Handle, info: &NodeInfo) -> Self {
        Self {
            n_tasks: info.n_tasks,
            id: info.node.id,
            handle,
            nano_cpus: info.nano_cpus,
            memory_bytes: info.memory_bytes,
        }
    }

    fn key(&self) -> (u64, NodeId) {
        (self.n_tasks, self.id)
    }
}

#[derive(Clone, Debug)]
struct Block {
    entries: Vec<Entry>,
    nano_cpus_max: i64,
    memory_bytes_max: i64,
}

impl Block {
    fn new(entries: Vec<Entry>) -> Self {
        let mut block = Self { entries, nano_cpus_max: i64::MIN, memory_bytes_max: i64::MIN };
        block.measure();
        block
    }

    fn measure(&mut self) {
        let entries = self.entries.iter();
        (self.nano_cpus_max, self.memory_bytes_max) = entries
            .fold((i64::MIN, i64::MIN), |(cpus, memory), entry| {
                (cpus.max(entry.nano_cpus), memory.max(entry.memory_bytes))
            });
    }

    fn last(&self) -> (u64, NodeId) {
        self.entries.last().expect("no block is empty").key()
    }
}

/// Nodes by their number of tasks, then by id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Order {
    blocks: Vec<Block>,
    n: usize,
}

impl Order {
    pub(crate) fn of(mut entries: Vec<Entry>) -> Self {
        if !entries.is_sorted_by_key(Entry::key) {
            entries.sort_unstable_by_key(Entry::key);
        }
        // Half full, so that there is room on both sides.
        let blocks = entries.chunks(BLOCK_MAX / 2).map(|chunk| {
            let mut own = Vec::with_capacity(BLOCK_MAX + 1);
            own.extend_from_slice(chunk);
            Block::new(own)
        });
        Self { blocks: blocks.collect(), n: entries.len() }
    }

    pub(crate) fn len(&self) -> usize {
        self.n
    }

    pub(crate) fn handles(&self) -> impl Iterator<Item = Handle> {
        self.blocks.iter().flat_map(|block| &block.entries).map(|entry| entry.handle)
    }

    pub(crate) fn insert(&mut self, entry: Entry) {
        self.n += 1;
        let key = entry.key();
        let at = self.blocks.partition_point(|block| block.last() < key).min(self.blocks.len().max(1) - 1);
        let Some(block) = self.blocks.get_mut(at) else {
            self.blocks.push(Block::new(vec![entry]));
            return;
        };
        let place = block.entries.partition_point(|other| other.key() < key);
        block.entries.insert(place, entry);
        block.nano_cpus_max = block.nano_cpus_max.max(entry.nano_cpus);
        block.memory_bytes_max = block.memory_bytes_max.max(entry.memory_bytes);
        if block.entries.len() > BLOCK_MAX {
            let right = block.entries.split_off(BLOCK_MAX / 2);
            block.measure();
            self.blocks.insert(at + 1, Block::new(right));
        }
    }

    /// Takes out a node that had so many tasks when it was put in.
    pub(crate) fn remove(&mut self, n_tasks: u64, id: NodeId) {
        let key = (n_tasks, id);
        let at = self.blocks.partition_point(|block| block.last() < key);
        let Some(block) = self.blocks.get_mut(at) else { return };
        let Ok(place) = block.entries.binary_search_by(|other| other.key().cmp(&key)) else { return };
        self.n -= 1;
        let gone = block.entries.remove(place);
        if block.entries.is_empty() {
            self.blocks.remove(at);
        } else if gone.nano_cpus == block.nano_cpus_max || gone.memory_bytes == block.memory_bytes_max {
            block.measure();
        }
    }

    /// How many of the nodes have less left.
    pub(crate) fn n_short(&self, nano_cpus: i64, memory_bytes: i64) -> usize {
        if nano_cpus <= 0 && memory_bytes <= 0 {
            return 0;
        }
        let asked = Asked::new(nano_cpus, memory_bytes);
        let short = |block: &Block| match asked.is_within(block.nano_cpus_max, block.memory_bytes_max) {
            false => block.entries.len(),
            true => block.entries.iter().filter(|entry| !asked.is_left_of(entry)).count(),
        };
        self.blocks.iter().map(short).sum()
    }

    /// Those that have so much left, in order.
    pub(crate) fn walk(&self, nano_cpus: i64, memory_bytes: i64) -> Walk<'_> {
        Walk { blocks: &self.blocks, at: 0, place: 0, asked: Asked::new(nano_cpus, memory_bytes) }
    }
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    nano_cpus: i64,
    memory_bytes: i64,
}

impl Asked {
    /// What is not asked for is there, even on a node that shrank below what it has given.
    fn new(nano_cpus: i64, memory_bytes: i64) -> Self {
        let least = |asked: i64| if asked <= 0 { i64::MIN } else { asked };
        Self { nano_cpus: least(nano_cpus), memory_bytes: least(memory_bytes) }
    }

    fn is_within(&self, nano_cpus: i64, memory_bytes: i64) -> bool {
        self.nano_cpus <= nano_cpus && self.memory_bytes <= memory_bytes
    }

    fn is_left_of(&self, entry: &Entry) -> bool {
        self.is_within(entry.nano_cpus, entry.memory_bytes)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Walk<'a> {
    blocks: &'a [Block],
    at: usize,
    place: usize,
    asked: Asked,
}

impl Iterator for Walk<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        loop {
            let block = self.blocks.get(self.at)?;
            if self.asked.is_within(block.nano_cpus_max, block.memory_bytes_max) {
                while let Some(entry) = block.entries.get(self.place) {
                    self.place += 1;
                    if self.asked.is_left_of(entry) {
                        return Some(*entry);
                    }
                }
            }
            (self.at, self.place) = (self.at + 1, 0);
        }
    }
}
