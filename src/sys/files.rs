//! Files, as the store and the index need them: opened without following links, read at a place, synced.
//!
//! Everything here may wait for the disk, and so belongs on the blocking pool, except [`read_now`].

use std::fs::{File, Metadata};
use std::io::{self, IoSlice, Read};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use bytes::Bytes;
use rustix::fs::{self, Advice, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

/// What tells one file from another that was put in its place, and from itself after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Device number.
    pub device: u64,
    /// Inode number on it.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Time of the last change of inode or content, in nanoseconds since 1970.
    pub ctime_ns: i64,
}

/// An open file at a moment: which one it is, and what tells a change of its content from one of its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Which file it is.
    pub identity: Identity,
    /// Time of the last change of its content, in nanoseconds since 1970. Anybody may set it.
    pub mtime_ns: i64,
    /// How many names it has.
    pub links: u64,
}

/// Opens a regular file for reading; `None` if there is nothing, or something that is no regular file: a link, a pipe, a
/// folder or a device is never followed or waited for.
pub fn open_regular(path: &Path) -> io::Result<Option<File>> {
    // O_NONBLOCK: opening a pipe that nobody writes must not hang. It has no effect on regular files.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match fs::open(path, flags, Mode::empty()) {
        Ok(descriptor) => File::from(descriptor),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(if file.metadata()?.is_file() { Some(file) } else { None })
}

/// Reads a small regular file whole, following links; `None` if it has more bytes than that.
pub fn read_small(path: &Path, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    // O_NONBLOCK: as in `open_regular`.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut content = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut content)?;
    Ok(Some(content).filter(|content| content.len() <= bytes_max))
}

/// A small file as it was at one moment.
#[derive(Debug)]
pub enum Steady {
    /// All of it, and its permission bits.
    Whole(Vec<u8>, u32),
    /// It has more bytes than that.
    TooLarge,
    /// It changed while it was read.
    Changing,
}

/// Reads a small regular file whole, following links, unless somebody writes into it meanwhile.
pub fn read_steady(path: &Path, bytes_max: usize) -> io::Result<Steady> {
    // O_NONBLOCK: as in `open_regular`.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let before = state(&file)?;
    if before.identity.size > bytes_max as u64 {
        return Ok(Steady::TooLarge);
    }
    let content = read_at(&file, 0, bytes_max.saturating_add(1))?;
    let is_same = state(&file)? == before && content.len() as u64 == before.identity.size;
    Ok(if is_same { Steady::Whole(content.to_vec(), metadata.mode()) } else { Steady::Changing })
}

/// Writes a file that is there whole or not at all, for its owner and as the mode says. One that is `durable` survives a power
/// cut, and takes as long as the disk.
///
/// Until then it has a name that begins with a dot.
pub fn write_whole(
    path: &Path,
    content: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
    durable: bool,
) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".{name}.{}", super::entropy::hex()));
    let write = || {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(content)?;
        if let Some((user, group)) = owner {
            std::os::unix::fs::fchown(&file, Some(user), Some(group))?;
        }
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        if durable {
            file.sync_all()?;
        }
        std::fs::rename(&aside, path)?;
        path.parent().filter(|_| durable).map_or(Ok(()), sync_folder)
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&aside)))
}

/// The identity of an open file.
pub fn identity(file: &File) -> io::Result<Identity> {
    Ok(identity_of(&file.metadata()?))
}

/// The identity of the regular file under a path; `None` if there is nothing, or something else.
pub fn identity_at(path: &Path) -> io::Result<Option<Identity>> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => Ok(metadata.is_file().then(|| identity_of(&metadata))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn identity_of(metadata: &Metadata) -> Identity {
    let ctime_ns = nanoseconds(metadata.ctime(), metadata.ctime_nsec());
    Identity { device: metadata.dev(), inode: metadata.ino(), size: metadata.len(), ctime_ns }
}

/// What an open file is like now.
pub fn state(file: &File) -> io::Result<State> {
    let metadata = file.metadata()?;
    let mtime_ns = nanoseconds(metadata.mtime(), metadata.mtime_nsec());
    Ok(State { identity: identity_of(&metadata), mtime_ns, links: metadata.nlink() })
}

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

/// Has the kernel read nothing ahead through this descriptor: only what is asked for comes into the page cache.
pub fn read_nothing_ahead(file: &File) -> io::Result<()> {
    Ok(fs::fadvise(file, 0, None, Advice::Random)?)
}

/// Takes a part of a file out of the page cache. The kernel keeps what is mapped, dirty or locked.
pub fn drop_cached(file: &File, offset: u64, length: u64) -> io::Result<()> {
    match NonZeroU64::new(length) {
        Some(length) => Ok(fs::fadvise(file, offset, Some(length), Advice::DontNeed)?),
        None => Ok(()),
    }
}

/// Reads up to `length` bytes from a place, fewer only at the end of the file.
pub fn read_at(file: &File, offset: u64, length: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; length];
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match read_some_at(file, offset + filled as u64, rest)? {
            0 => break,
            taken => filled += taken,
        }
    }
    buffer.truncate(filled);
    Ok(Bytes::from(buffer))
}

/// Reads like [`read_at`], and leaves the page cache as it was: what was in it stays, what had to come from the disk is
/// dropped again. Only whole if nothing is read ahead ([`read_nothing_ahead`]), since what is read ahead would look as if
/// it had been there.
pub fn read_leaving_cache(file: &File, offset: u64, length: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; length];
    let resident = read_now(file, offset, &mut buffer)?.unwrap_or(0);
    let rest = read_at(file, offset + resident as u64, length - resident)?;
    buffer.truncate(resident);
    buffer.extend_from_slice(&rest);
    if !rest.is_empty() {
        drop_cached(file, offset + resident as u64, rest.len() as u64)?;
    }
    Ok(Bytes::from(buffer))
}

/// One read from a place; 0 only at the end of the file.
pub fn read_some_at(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Reads from the page cache without ever waiting for the disk: `None` if the bytes are not there.
///
/// The kernel also says so for pages that it marked for reading ahead, so `None` is a normal answer for hot files too.
pub fn read_now(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let mut slices = [io::IoSliceMut::new(buffer)];
    match rustix::io::preadv2(file, &mut slices, offset, ReadWriteFlags::NOWAIT) {
        Ok(taken) => Ok(Some(taken)),
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR | Errno::NOSYS | Errno::INVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Most slices in one write; the kernel's own limit is 1,024.
const SLICES_MAX: usize = 512;

/// Writes pieces one after the other from a place on; gives the place behind them.
pub fn write_all_at(file: &File, mut at: u64, pieces: &[Bytes]) -> io::Result<u64> {
    for group in pieces.chunks(SLICES_MAX) {
        let mut slices: Vec<_> = group.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut slices = slices.as_mut_slice();
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match rustix::io::pwritev(file, slices, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    at += written as u64;
                    IoSlice::advance_slices(&mut slices, written);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(at)
}

/// Reserves room for `length` bytes without changing the length, so that a full disk shows before the first byte. A file
/// system that knows no reservations is left alone.
pub fn reserve(file: &File, length: u64) -> io::Result<()> {
    match fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, length) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Gives a file all blocks for its first `length` bytes, and that length: nothing that is written there later finds the
/// disk full.
pub fn allocate(file: &File, length: u64) -> io::Result<()> {
    Ok(fs::fallocate(file, FallocateFlags::empty(), 0, length)?)
}

/// Whether an error says that there is no room: blocks, inodes, or a quota.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What a file system has, and what of it this process may still use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// All bytes.
    pub total_bytes: u64,
    /// Bytes that are free for this user.
    pub free_bytes: u64,
    /// All inodes; 0 where they are made as needed.
    pub total_inodes: u64,
    /// Inodes that are free for this user.
    pub free_inodes: u64,
}

/// The space of the file system of a path.
pub fn space(path: &Path) -> io::Result<Space> {
    let found = fs::statvfs(path)?;
    Ok(Space {
        total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        total_inodes: found.f_files,
        free_inodes: found.f_favail,
    })
}

/// Whether the file system of a path writes the blocks of a file in place once it has them. Others need new blocks for
/// each write, and kill a process that writes to a map when there are none.
pub fn writes_in_place(path: &Path) -> io::Result<bool> {
    let kind = fs::statfs(path)?.f_type;
    // ext2 to ext4, XFS, tmpfs.
    Ok(matches!(u32::try_from(kind & 0xffff_ffff).unwrap_or(0), 0xef53 | 0x5846_5342 | 0x0102_1994))
}

/// Makes what was created, renamed or removed in a folder durable.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes everything durable that was written to the file system of a path, by anybody.
pub fn sync_file_system(path: &Path) -> io::Result<()> {
    Ok(fs::syncfs(File::open(path)?)?)
}

/// Takes the exclusive lock of an open file; `false` if another process has it.
pub fn lock_exclusively(file: &File) -> io::Result<bool> {
    match fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether memory-mapped databases are safe on the file system of a path: not on network and user-space ones, whose maps
/// and locks differ from those of a disk. The name of the file system if not.
pub fn unmappable(path: &Path) -> io::Result<Option<&'static str>> {
    let kind = fs::statfs(path)?.f_type;
    Ok(match u32::try_from(kind & 0xffff_ffff).unwrap_or(0) {
        0x6969 => Some("NFS"),
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => Some("SMB"),
        0x0102_1997 => Some("9p"),
        0x6573_5546 => Some("FUSE or virtiofs"),
        0x794c_7630 => Some("overlay"),
        0x00c3_6400 => Some("Ceph"),
        0x0bd0_0bd0 => Some("Lustre"),
        0x0116_1970 => Some("GFS2"),
        0x7461_636f => Some("OCFS2"),
        0x5346_414f => Some("AFS"),
        0x786f_4256 => Some("a shared folder of VirtualBox"),
        _ => None,
    })
}

/// The user of this process.
pub fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Raises the limit of open files to what the system lets this process have: every connection and every body needs one.
/// Gives the limit as it is then; `None` is without limit.
pub fn raise_descriptor_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), b"content").unwrap();
        symlink(at("file"), at("link")).unwrap();
        fs::mkfifoat(fs::CWD, at("pipe"), Mode::RUSR).unwrap();
        assert!(open_regular(&at("file")).unwrap().is_some());
        for other in ["link", "pipe", "missing", "."] {
            assert!(open_regular(&at(other)).unwrap().is_none(), "{other}");
        }
    }

    #[test]
    fn an_identity_changes_with_the_content() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let before = identity(file.as_file()).unwrap();
        std::fs::write(file.path(), b"x").unwrap();
        assert_ne!(identity(file.as_file()).unwrap(), before);
    }

    #[test]
    fn reads_end_with_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"0123456789").unwrap();
        assert_eq!(read_at(file.as_file(), 4, 3).unwrap(), "456");
        assert_eq!(read_at(file.as_file(), 8, 100).unwrap(), "89");
        assert_eq!(read_at(file.as_file(), 10, 1).unwrap(), "");
        let mut buffer = [0; 4];
        // Just written, so in the page cache, unless the file system can't tell.
        assert!(matches!(read_now(file.as_file(), 0, &mut buffer).unwrap(), Some(4) | None));
    }

    #[test]
    fn pieces_are_written_one_after_the_other() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let pieces: Vec<Bytes> =
            (0..1500u32).map(|n| Bytes::from(n.to_string())).chain([Bytes::new()]).collect();
        let all = pieces.concat();
        assert_eq!(write_all_at(file.as_file(), 7, &pieces).unwrap(), 7 + all.len() as u64);
        assert_eq!(read_at(file.as_file(), 7, all.len() + 1).unwrap(), all);
        assert_eq!(write_all_at(file.as_file(), 3, &[]).unwrap(), 3);
    }

    #[test]
    fn a_read_that_leaves_the_cache_gives_the_same_bytes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(file.path(), &content).unwrap();
        file.as_file().sync_all().unwrap();
        let open = open_regular(file.path()).unwrap().unwrap();
        read_nothing_ahead(&open).unwrap();
        drop_cached(&open, 0, content.len() as u64).unwrap();
        for _ in 0..2 {
            assert_eq!(read_leaving_cache(&open, 0, content.len() + 10).unwrap(), content);
            assert_eq!(read_leaving_cache(&open, 100_001, 7).unwrap(), content[100_001..100_008]);
        }
        assert!(read_leaving_cache(&open, content.len() as u64, 9).unwrap().is_empty());
    }

    #[test]
    fn a_file_system_has_space() {
        let folder = tempfile::tempdir().unwrap();
        let space = space(folder.path()).unwrap();
        assert!(space.total_bytes > 0 && space.free_bytes <= space.total_bytes);
        assert!(is_full(&Errno::NOSPC.into()) && is_full(&Errno::DQUOT.into()));
        assert!(!is_full(&Errno::IO.into()));
    }

    #[test]
    fn a_lock_is_exclusive() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(lock_exclusively(file.as_file()).unwrap());
        assert!(!lock_exclusively(&File::open(file.path()).unwrap()).unwrap());
    }
}
