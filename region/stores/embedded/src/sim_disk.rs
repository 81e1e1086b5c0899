//! A disk in memory that behaves as badly as disks may: at a power cut it forgets what was not
//! synced, in any order and cut at any byte; syncs fail and lose what they should have kept; it
//! fills up. Everything follows from its seed, so that a failing run repeats.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Weak};

use gb6_region_archive::ReadAt;
use parking_lot::Mutex;

use crate::vfs::{Vfs, VfsFile};

/// Bytes that reach a real disk together or not at all, as far as they reach it at all.
const PAGE: usize = 4096;

/// A disk with directories. Clones share it.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<Disk>>);

/// One directory of a [`SimDisk`].
#[derive(Clone)]
pub struct SimVfs {
    disk: SimDisk,
    dir: Arc<str>,
}

/// A file of a [`SimDisk`].
pub struct SimFile {
    disk: SimDisk,
    node: Arc<Mutex<Node>>,
}

struct Disk {
    random: u64,
    /// Names as running processes see them.
    names: BTreeMap<String, Arc<Mutex<Node>>>,
    /// Names as they are after a power cut, before `pending`.
    durable: BTreeMap<String, Arc<Mutex<Node>>>,
    /// Changes of names since the last sync of a directory, in order.
    pending: Vec<NameChange>,
    open: Vec<Weak<Mutex<Node>>>,
    capacity: u64,
    /// Mutating operations until the power goes.
    power_cut_in: Option<u64>,
    fail_sync_in: Option<u64>,
    stall_ms: u64,
    stalled_ms: u64,
    operations: u64,
}

#[derive(Clone)]
enum NameChange {
    Set(String, Arc<Mutex<Node>>),
    Remove(String),
    Rename(String, String),
}

#[derive(Default)]
struct Node {
    /// What running processes read.
    cache: Vec<u8>,
    /// What is on the platter.
    durable: Arc<Vec<u8>>,
    /// Changes since the last sync, in order.
    dirty: Vec<Change>,
}

enum Change {
    Write(u64, Vec<u8>),
    Len(u64),
}

fn next_random(state: &mut u64) -> u64 {
    // SplitMix64: small, and the same everywhere.
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn apply_write(data: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    if data.len() < end {
        data.resize(end, 0);
    }
    data[offset as usize..end].copy_from_slice(bytes);
}

impl Node {
    /// What a power cut (or a failed sync) leaves of the changes: any of their pages, one of them
    /// perhaps cut at any byte.
    fn settle(&mut self, random: &mut u64) {
        if self.dirty.is_empty() {
            return;
        }
        let mut data = self.durable.as_ref().clone();
        // One in four: everything, or nothing, so that the plain cases stay common.
        let mode = next_random(random) % 4;
        for change in std::mem::take(&mut self.dirty) {
            match change {
                Change::Len(len) => {
                    if mode == 0 || (mode > 1 && next_random(random).is_multiple_of(2)) {
                        data.resize(len as usize, 0);
                    }
                }
                Change::Write(offset, bytes) => match mode {
                    0 => apply_write(&mut data, offset, &bytes),
                    1 => {}
                    _ => Self::settle_write(&mut data, offset, &bytes, random),
                },
            }
        }
        self.durable = Arc::new(data);
    }

    fn settle_write(data: &mut Vec<u8>, offset: u64, bytes: &[u8], random: &mut u64) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset as usize + done;
            let page = (PAGE - at % PAGE).min(bytes.len() - done);
            let keep = match next_random(random) % 4 {
                0 => 0,
                1 => next_random(random) as usize % (page + 1),
                _ => page,
            };
            if keep > 0 {
                apply_write(data, at as u64, &bytes[done..done + keep]);
            }
            done += page;
        }
    }

    fn sync(&mut self) {
        if self.dirty.is_empty() {
            return;
        }
        // Not the cache: what an earlier failed sync lost stays lost until it is written again.
        let mut data = self.durable.as_ref().clone();
        for change in std::mem::take(&mut self.dirty) {
            match change {
                Change::Len(len) => data.resize(len as usize, 0),
                Change::Write(offset, bytes) => apply_write(&mut data, offset, &bytes),
            }
        }
        self.durable = Arc::new(data);
    }
}

fn apply_name(names: &mut BTreeMap<String, Arc<Mutex<Node>>>, change: NameChange) {
    match change {
        NameChange::Set(name, node) => {
            names.insert(name, node);
        }
        NameChange::Remove(name) => {
            names.remove(&name);
        }
        NameChange::Rename(from, to) => {
            if let Some(node) = names.remove(&from) {
                names.insert(to, node);
            }
        }
    }
}

impl Disk {
    /// Counts a mutating operation; an error once the power is gone.
    fn step(&mut self) -> io::Result<()> {
        self.operations += 1;
        match &mut self.power_cut_in {
            None => Ok(()),
            Some(0) => Err(io::Error::other("simulated power cut")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn powered(&self) -> io::Result<()> {
        match self.power_cut_in {
            Some(0) => Err(io::Error::other("simulated power cut")),
            _ => Ok(()),
        }
    }

    fn change_name(&mut self, change: NameChange) {
        apply_name(&mut self.names, change.clone());
        self.pending.push(change);
    }

    fn used(&mut self) -> u64 {
        let mut nodes: Vec<Arc<Mutex<Node>>> = self.names.values().cloned().collect();
        self.open.retain(|weak| match weak.upgrade() {
            Some(node) => {
                if !nodes.iter().any(|n| Arc::ptr_eq(n, &node)) {
                    nodes.push(node);
                }
                true
            }
            None => false,
        });
        nodes.iter().map(|n| n.lock().cache.len() as u64).sum()
    }

    /// How many of `wanted` more bytes fit.
    fn grant(&mut self, wanted: u64) -> u64 {
        if self.capacity == u64::MAX {
            return wanted;
        }
        wanted.min(self.capacity.saturating_sub(self.used()))
    }
}

impl SimDisk {
    /// An empty disk; everything that it decides follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Disk {
            random: seed,
            names: BTreeMap::new(),
            durable: BTreeMap::new(),
            pending: Vec::new(),
            open: Vec::new(),
            capacity: u64::MAX,
            power_cut_in: None,
            fail_sync_in: None,
            stall_ms: 0,
            stalled_ms: 0,
            operations: 0,
        })))
    }

    /// A directory of the disk; it need not be made.
    pub fn dir(&self, name: &str) -> SimVfs {
        SimVfs {
            disk: self.clone(),
            dir: name.into(),
        }
    }

    /// The disk after a power cut now: what was not synced is there, partly there or gone. The
    /// old disk and its handles are those of the processes that died: drop them.
    pub fn power_cut(&self) -> SimDisk {
        let mut disk = self.0.lock();
        let mut random = next_random(&mut disk.random);
        let mut names = disk.durable.clone();
        let kept = next_random(&mut random) % (disk.pending.len() as u64 + 1);
        for change in disk.pending.iter().take(kept as usize).cloned() {
            apply_name(&mut names, change);
        }
        let after = SimDisk::new(next_random(&mut random));
        {
            let mut next = after.0.lock();
            for (name, node) in names {
                let mut node = node.lock();
                // The old processes are dead: what their node loses here nobody reads.
                node.settle(&mut random);
                let copy = Arc::new(Mutex::new(Node {
                    cache: node.durable.as_ref().clone(),
                    durable: node.durable.clone(),
                    dirty: Vec::new(),
                }));
                next.names.insert(name.clone(), copy.clone());
                next.durable.insert(name, copy);
            }
            next.capacity = disk.capacity;
        }
        disk.power_cut_in = Some(0);
        after
    }

    /// Lets the power go after `operations` more mutating operations (writes, syncs, changes of
    /// names): every call fails from then on. [`SimDisk::power_cut`] gives what is left.
    pub fn cut_power_in(&self, operations: u64) {
        self.0.lock().power_cut_in = Some(operations);
    }

    /// Mutating operations so far.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// Lets the sync after `syncs` more ones fail. What it should have kept is partly lost, and a
    /// later sync does not bring it back, although readers still see it.
    pub fn fail_sync_in(&self, syncs: u64) {
        self.0.lock().fail_sync_in = Some(syncs);
    }

    /// Bounds the disk; `u64::MAX`: no bound. Files that exist keep what they have.
    pub fn set_capacity(&self, bytes: u64) {
        self.0.lock().capacity = bytes;
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.0.lock().used()
    }

    /// Makes each sync take this long in virtual time: see [`SimDisk::take_stall_ms`].
    pub fn set_stall_ms(&self, ms: u64) {
        self.0.lock().stall_ms = ms;
    }

    /// The virtual time that syncs took since the last call, in ms: the simulation answers that
    /// much later.
    pub fn take_stall_ms(&self) -> u64 {
        std::mem::take(&mut self.0.lock().stalled_ms)
    }

    /// Changes one byte on the platter and in memory: what a broken disk does. `false` when the
    /// file does not reach that far.
    pub fn damage(&self, dir: &str, name: &str, offset: u64, flip: u8) -> bool {
        let disk = self.0.lock();
        let Some(node) = disk.names.get(&format!("{dir}/{name}")) else {
            return false;
        };
        let mut node = node.lock();
        let at = offset as usize;
        let mut data = node.durable.as_ref().clone();
        if let Some(stored) = data.get_mut(at) {
            *stored ^= flip;
            node.durable = Arc::new(data);
        }
        match node.cache.get_mut(at) {
            Some(cached) => {
                *cached ^= flip;
                true
            }
            None => false,
        }
    }
}

impl SimVfs {
    /// The disk that the directory is on.
    pub fn disk(&self) -> &SimDisk {
        &self.disk
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }
}

impl SimFile {
    /// Grows the cache to `end` as far as there is space; answers up to where there was.
    fn reserve(disk: &mut Disk, node: &Mutex<Node>, end: u64) -> u64 {
        let len = node.lock().cache.len() as u64;
        if end <= len {
            return end;
        }
        len + disk.grant(end - len)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        disk.step()?;
        let end = offset + data.len() as u64;
        let fits = Self::reserve(&mut disk, &self.node, end);
        let written = &data[..fits.saturating_sub(offset).min(data.len() as u64) as usize];
        let mut node = self.node.lock();
        apply_write(&mut node.cache, offset, written);
        node.dirty.push(Change::Write(offset, written.to_vec()));
        if fits < end {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl ReadAt for SimFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.disk.0.lock().powered()?;
        let node = self.node.lock();
        let rest = node.cache.get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.0.lock().powered()?;
        Ok(self.node.lock().cache.len() as u64)
    }
}

impl VfsFile for SimFile {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write(offset, data)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.write(offset, &vec![0; len as usize])
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        disk.step()?;
        disk.stalled_ms += disk.stall_ms;
        let fails = match &mut disk.fail_sync_in {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        };
        let mut node = self.node.lock();
        if fails {
            disk.fail_sync_in = None;
            node.settle(&mut disk.random);
            return Err(io::Error::other("simulated sync failure"));
        }
        node.sync();
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        disk.step()?;
        if Self::reserve(&mut disk, &self.node, len) < len {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut node = self.node.lock();
        node.cache.resize(len as usize, 0);
        node.dirty.push(Change::Len(len));
        Ok(())
    }
}

impl Vfs for SimVfs {
    type File = SimFile;

    fn create(&self, name: &str) -> io::Result<SimFile> {
        let mut disk = self.disk.0.lock();
        disk.step()?;
        let key = self.key(name);
        if disk.names.contains_key(&key) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = Arc::new(Mutex::new(Node::default()));
        disk.open.push(Arc::downgrade(&node));
        disk.change_name(NameChange::Set(key, node.clone()));
        Ok(SimFile {
            disk: self.disk.clone(),
            node,
        })
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let disk = self.disk.0.lock();
        disk.powered()?;
        let node = disk.names.get(&self.key(name)).cloned();
        Ok(SimFile {
            disk: self.disk.clone(),
            node: node.ok_or(io::ErrorKind::NotFound)?,
        })
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        let disk = self.disk.0.lock();
        disk.powered()?;
        Ok(disk.names.contains_key(&self.key(name)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        disk.step()?;
        let (from, to) = (self.key(from), self.key(to));
        if !disk.names.contains_key(&from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.change_name(NameChange::Rename(from, to));
        Ok(())
    }

    fn publish(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        disk.step()?;
        let (from, to) = (self.key(from), self.key(to));
        if disk.names.contains_key(&to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !disk.names.contains_key(&from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.change_name(NameChange::Rename(from, to));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        disk.step()?;
        let key = self.key(name);
        if !disk.names.contains_key(&key) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.change_name(NameChange::Remove(key));
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let disk = self.disk.0.lock();
        disk.powered()?;
        let prefix = format!("{}/", self.dir);
        Ok(disk
            .names
            .range(prefix.clone()..)
            .map_while(|(name, _)| name.strip_prefix(&prefix))
            .map(str::to_owned)
            .collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        disk.step()?;
        for change in std::mem::take(&mut disk.pending) {
            apply_name(&mut disk.durable, change);
        }
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        self.key(name)
    }
}
