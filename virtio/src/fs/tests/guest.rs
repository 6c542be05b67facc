//! A guest's virtio-fs driver, small enough to read: one request at a time, in memory that every request uses anew.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use fuse_backend_rs::abi::fuse_abi::{
    AttrOut, CreateIn, EntryOut, InHeader, InitIn, InitOut, KERNEL_MINOR_VERSION, KERNEL_VERSION, Opcode,
    OpenIn, OpenOut, OutHeader, ROOT_ID, ReadIn, ReleaseIn, SetattrIn, WriteIn, WriteOut,
};
use tempfile::TempDir;
use virtio_queue::{Queue, QueueT};
use vm_memory::{ByteValued, Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::super::server::CrxFs;
use super::super::{Fs, FsConfig};
use crate::{Activation, ActiveQueue, GuestMem, Interrupt, VirtioDevice};

pub(super) const MEMORY_BYTES: usize = 8 << 20;
/// The request and its reply lie here.
pub(super) const REQUEST: u64 = 0x20_0000;
pub(super) const REPLY: u64 = 0x40_0000;
const RINGS: [u64; 2] = [0x1_0000, 0x2_0000];
const AVAILABLE: u64 = 0x4000;
const USED: u64 = 0x6000;
/// The request queue.
pub(super) const REQUESTS: usize = 1;
/// The queue of FORGET.
pub(super) const HIPRIO: usize = 0;

pub(super) const F_NEXT: u16 = 1;
pub(super) const F_WRITE: u16 = 2;

/// The errno of a failed request.
pub(super) type Reply<T> = Result<T, i32>;

/// A driver with a mounted share.
pub(super) struct Guest {
    pub(super) share: TempDir,
    pub(super) memory: GuestMem,
    pub(super) device: Fs,
    pub(super) files: Arc<CrxFs>,
    pub(super) status: Arc<AtomicU32>,
    line: EventFd,
    kicks: Vec<EventFd>,
    sizes: Vec<u16>,
    available: [u16; 2],
    used: [u16; 2],
    /// User and group of the next requests.
    pub(super) caller: (u32, u32),
    unique: u64,
}

impl Guest {
    /// A share with an empty `1/rootfs` and an empty `1/volumes/0`, mounted.
    pub(super) fn mounted() -> Self {
        Self::with_descriptors(1000, 1000)
    }

    /// As [`Guest::mounted`], with that many descriptors for nodes and open files.
    pub(super) fn with_descriptors(for_nodes: usize, open_files: usize) -> Self {
        let share = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(share.path().join("1/rootfs")).unwrap();
        std::fs::create_dir_all(share.path().join("1/volumes/0")).unwrap();
        let config = FsConfig { tag: "crx".to_owned(), root: share.path().to_owned() };
        let mut guest = Self::driver(share, Fs::with_descriptors(config, for_nodes, open_files).unwrap());
        guest.init(u32::MAX >> 2);
        guest
    }

    /// A driver that has activated the device, and sent nothing.
    pub(super) fn driver(share: TempDir, device: Fs) -> Self {
        let memory = GuestMem::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
        let line = EventFd::new(EFD_NONBLOCK).unwrap();
        let mut guest = Self {
            share,
            memory,
            files: device.files(),
            sizes: device.queue_sizes().to_vec(),
            device,
            status: Arc::default(),
            line,
            kicks: Vec::new(),
            available: [0; 2],
            used: [0; 2],
            caller: (0, 0),
            unique: 0,
        };
        guest.activate();
        guest
    }

    /// Resets the device and starts it again, as a driver that is loaded anew does.
    pub(super) fn activate(&mut self) {
        self.device.stop();
        (self.available, self.used) = ([0; 2], [0; 2]);
        self.kicks.clear();
        let mut queues = Vec::new();
        for (ring, size) in RINGS.into_iter().zip(self.sizes.clone()) {
            self.memory.write_slice(&[0; 0x8000], GuestAddress(ring)).unwrap();
            let mut queue = Queue::new(size).unwrap();
            queue.set_size(size);
            queue.set_desc_table_address(Some(ring as u32), Some(0));
            queue.set_avail_ring_address(Some((ring + AVAILABLE) as u32), Some(0));
            queue.set_used_ring_address(Some((ring + USED) as u32), Some(0));
            queue.set_ready(true);
            let kick = EventFd::new(EFD_NONBLOCK).unwrap();
            self.kicks.push(kick.try_clone().unwrap());
            queues.push(ActiveQueue { queue, kick });
        }
        let line = Arc::new(self.line.try_clone().unwrap());
        let interrupt = Interrupt::new(Arc::default(), Arc::clone(&self.status), line);
        let features = self.device.features();
        let activation = Activation { memory: self.memory.clone(), features, queues, interrupt };
        self.device.activate(activation).unwrap();
    }

    /// Where something of the share is on the host.
    pub(super) fn host(&self, path: impl AsRef<Path>) -> std::path::PathBuf {
        self.share.path().join(path)
    }

    /// Interrupts since the last time.
    pub(super) fn interrupts(&self) -> u64 {
        self.line.read().unwrap_or(0)
    }

    /// Makes one chain of buffers available, at descriptor `head` and the next ones.
    pub(super) fn add(&mut self, queue: usize, head: u16, buffers: &[(u64, u32, bool)]) {
        for (index, (address, length, write)) in (head..).zip(buffers) {
            let last = usize::from(index - head) + 1 == buffers.len();
            let flags = if *write { F_WRITE } else { 0 } | if last { 0 } else { F_NEXT };
            self.descriptor(queue, index, *address, *length, flags, index + 1);
        }
        self.offer(queue, head);
    }

    /// Writes one descriptor.
    pub(super) fn descriptor(
        &self,
        queue: usize,
        index: u16,
        address: u64,
        length: u32,
        flags: u16,
        next: u16,
    ) {
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&address.to_le_bytes());
        raw[8..12].copy_from_slice(&length.to_le_bytes());
        raw[12..14].copy_from_slice(&flags.to_le_bytes());
        raw[14..].copy_from_slice(&next.to_le_bytes());
        self.memory.write_slice(&raw, GuestAddress(RINGS[queue] + 16 * u64::from(index))).unwrap();
    }

    /// Makes the chain at `head` available.
    pub(super) fn offer(&mut self, queue: usize, head: u16) {
        let ring = RINGS[queue] + AVAILABLE;
        let slot = u64::from(self.available[queue] % self.sizes[queue]);
        self.memory.write_obj(head, GuestAddress(ring + 4 + 2 * slot)).unwrap();
        self.available[queue] = self.available[queue].wrapping_add(1);
        self.memory.store(self.available[queue], GuestAddress(ring + 2), Ordering::Release).unwrap();
        // used_event: interrupt for the next one.
        let event = ring + 4 + 2 * u64::from(self.sizes[queue]);
        self.memory.write_obj(self.used[queue], GuestAddress(event)).unwrap();
        fence(Ordering::SeqCst);
    }

    /// Rings the doorbell.
    pub(super) fn kick(&self, queue: usize) {
        self.kicks[queue].write(1).unwrap();
    }

    /// Waits for the next used chain and returns its length; `None` if the device gave up.
    pub(super) fn used(&mut self, queue: usize) -> Option<u32> {
        let ring = RINGS[queue] + USED;
        for attempt in 0.. {
            let index: u16 = self.memory.load(GuestAddress(ring + 2), Ordering::Acquire).unwrap();
            if index != self.used[queue] {
                break;
            }
            if self.status.load(Ordering::SeqCst) != 0 {
                return None;
            }
            assert!(attempt < 200_000, "no answer");
            if attempt > 100 {
                std::thread::sleep(std::time::Duration::from_micros(50));
            }
        }
        let slot = u64::from(self.used[queue] % self.sizes[queue]);
        self.used[queue] = self.used[queue].wrapping_add(1);
        Some(self.memory.read_obj(GuestAddress(ring + 8 + 8 * slot)).unwrap())
    }

    /// Sends bytes as one request with room for a reply; returns the reply.
    pub(super) fn raw(&mut self, queue: usize, request: &[u8], room: u32) -> Option<Vec<u8>> {
        self.memory.write_slice(request, GuestAddress(REQUEST)).unwrap();
        let mut buffers = vec![(REQUEST, request.len() as u32, false)];
        if room > 0 {
            buffers.push((REPLY, room, true));
        }
        self.add(queue, 0, &buffers);
        self.kick(queue);
        let length = self.used(queue)?;
        let mut reply = vec![0; length.min(room) as usize];
        self.memory.read_slice(&mut reply, GuestAddress(REPLY)).unwrap();
        Some(reply)
    }

    /// The bytes of a request.
    pub(super) fn message(&mut self, opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
        self.unique += 1;
        let header = InHeader {
            len: (size_of::<InHeader>() + body.len()) as u32,
            opcode,
            unique: self.unique,
            nodeid: node,
            uid: self.caller.0,
            gid: self.caller.1,
            pid: 1,
            padding: 0,
        };
        [header.as_slice(), body].concat()
    }

    /// Sends a request and returns the body of its reply.
    pub(super) fn call(&mut self, opcode: Opcode, node: u64, body: &[u8]) -> Reply<Vec<u8>> {
        self.call_with_room(opcode, node, body, 2 << 20)
    }

    /// As [`Guest::call`], with room for a reply of that many bytes and its header.
    pub(super) fn call_with_room(
        &mut self,
        opcode: Opcode,
        node: u64,
        body: &[u8],
        room: u32,
    ) -> Reply<Vec<u8>> {
        let message = self.message(opcode as u32, node, body);
        let mut reply = self.raw(REQUESTS, &message, room + size_of::<OutHeader>() as u32).unwrap();
        let body = reply.split_off(size_of::<OutHeader>());
        let header: OutHeader = object(&reply);
        assert_eq!(header.unique, self.unique);
        assert_eq!(header.len as usize, reply.len() + body.len());
        if header.error == 0 { Ok(body) } else { Err(-header.error) }
    }

    pub(super) fn init(&mut self, flags: u32) -> InitOut {
        let init =
            InitIn { major: KERNEL_VERSION, minor: KERNEL_MINOR_VERSION, max_readahead: 0x2_0000, flags };
        object(&self.call(Opcode::Init, 0, init.as_slice()).unwrap())
    }

    pub(super) fn lookup(&mut self, parent: u64, name: &str) -> Reply<EntryOut> {
        let entry: EntryOut = object(&self.call(Opcode::Lookup, parent, name_bytes(name).as_slice())?);
        if entry.nodeid == 0 { Err(libc::ENOENT) } else { Ok(entry) }
    }

    /// Looks a path up from the root; returns its node.
    pub(super) fn walk(&mut self, path: &str) -> u64 {
        path.split('/').fold(ROOT_ID, |node, name| self.lookup(node, name).unwrap().nodeid)
    }

    pub(super) fn attributes(
        &mut self,
        node: u64,
        handle: Option<u64>,
    ) -> Reply<fuse_backend_rs::abi::fuse_abi::Attr> {
        let body = fuse_backend_rs::abi::fuse_abi::GetattrIn {
            flags: handle.is_some().into(),
            dummy: 0,
            fh: handle.unwrap_or(0),
        };
        let out: AttrOut = object(&self.call(Opcode::Getattr, node, body.as_slice())?);
        Ok(out.attr)
    }

    pub(super) fn set(&mut self, node: u64, change: SetattrIn) -> Reply<AttrOut> {
        Ok(object(&self.call(Opcode::Setattr, node, change.as_slice())?))
    }

    pub(super) fn create(
        &mut self,
        parent: u64,
        name: &str,
        flags: i32,
        mode: u32,
    ) -> Reply<(EntryOut, u64)> {
        let create = CreateIn { flags: flags as u32, mode, umask: 0, fuse_flags: 0 };
        let body = [create.as_slice(), &name_bytes(name)].concat();
        let reply = self.call(Opcode::Create, parent, &body)?;
        let open: OpenOut = object(&reply[size_of::<EntryOut>()..]);
        Ok((object(&reply), open.fh))
    }

    pub(super) fn open(&mut self, node: u64, flags: i32) -> Reply<OpenOut> {
        let open = OpenIn { flags: flags as u32, fuse_flags: 0 };
        Ok(object(&self.call(Opcode::Open, node, open.as_slice())?))
    }

    pub(super) fn opendir(&mut self, node: u64) -> Reply<OpenOut> {
        Ok(object(&self.call(Opcode::Opendir, node, OpenIn::default().as_slice())?))
    }

    pub(super) fn release(&mut self, node: u64, fh: u64) -> Reply<()> {
        self.call(Opcode::Release, node, ReleaseIn { fh, ..Default::default() }.as_slice()).map(drop)
    }

    pub(super) fn read(&mut self, node: u64, fh: u64, offset: u64, size: u32) -> Reply<Vec<u8>> {
        let read = ReadIn { fh, offset, size, ..Default::default() };
        self.call_with_room(Opcode::Read, node, read.as_slice(), size)
    }

    pub(super) fn write(&mut self, node: u64, fh: u64, offset: u64, data: &[u8]) -> Reply<u32> {
        self.write_with(node, WriteIn { fh, offset, ..Default::default() }, data)
    }

    pub(super) fn write_with(&mut self, node: u64, write: WriteIn, data: &[u8]) -> Reply<u32> {
        let write = WriteIn { size: data.len() as u32, ..write };
        let out: WriteOut = object(&self.call(Opcode::Write, node, &[write.as_slice(), data].concat())?);
        Ok(out.size)
    }

    pub(super) fn forget(&mut self, node: u64, count: u64) {
        let message = self.message(Opcode::Forget as u32, node, &count.to_le_bytes());
        assert_eq!(self.raw(HIPRIO, &message, 0), Some(Vec::new()));
    }
}

/// A name as a message has it.
pub(super) fn name_bytes(name: &str) -> Vec<u8> {
    CString::new(std::ffi::OsStr::new(name).as_bytes()).unwrap().into_bytes_with_nul()
}

/// Reads a structure from the start of `bytes`.
pub(super) fn object<T: ByteValued + Default>(bytes: &[u8]) -> T {
    let mut object = T::default();
    object.as_mut_slice().copy_from_slice(&bytes[..size_of::<T>()]);
    object
}
