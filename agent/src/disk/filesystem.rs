//! What kind of file system a directory is on: some forget at reboot, some do not report changes.

use std::io;
use std::path::Path;

/// A file system, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Its usual name, or `other`.
    pub name: &'static str,
    /// Whether its content is gone after a reboot.
    pub volatile: bool,
    /// Whether another machine can change it without this kernel noticing, so that inotify stays silent.
    pub remote: bool,
}

/// Magic numbers of statfs(2), from the kernel's `include/uapi/linux/magic.h` and the file systems' own headers.
const KNOWN: [(u32, &str, bool, bool); 20] = [
    (0x0102_1994, "tmpfs", true, false),
    (0x8584_58F6, "ramfs", true, false),
    (0xEF53, "ext4", false, false),
    (0x5846_5342, "xfs", false, false),
    (0x9123_683E, "btrfs", false, false),
    (0x794C_7630, "overlayfs", false, false),
    (0x2FC1_2FC1, "zfs", false, false),
    (0xF2F5_2010, "f2fs", false, false),
    (0x6969, "nfs", false, true),
    (0xFF53_4D42, "cifs", false, true),
    (0xFE53_4D42, "smb2", false, true),
    (0x6573_5546, "fuse", false, true),
    (0x0102_1997, "9p", false, true),
    (0x00C3_6400, "ceph", false, true),
    (0x0BD0_0BD0, "lustre", false, true),
    (0x4750_4653, "gpfs", false, true),
    (0x5346_414F, "afs", false, true),
    (0x7461_636F, "ocfs2", false, true),
    (0x0116_1970, "gfs2", false, true),
    (0x786F_4256, "vboxsf", false, true),
];

/// The file system `path` is on.
///
/// # Errors
/// Those of statfs(2).
pub fn of(path: &Path) -> io::Result<FileSystem> {
    let magic = rustix::fs::statfs(path)?.f_type;
    // f_type is as wide as a C long; magic numbers are 32 bits.
    let magic = (magic & 0xFFFF_FFFF) as u32;
    let known = KNOWN.iter().find(|(number, ..)| *number == magic);
    let (_, name, volatile, remote) = known.copied().unwrap_or((magic, "other", false, false));
    Ok(FileSystem { name, volatile, remote })
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails if tmpfs is not recognised: `check` would not warn of state that a reboot erases.
    #[test]
    fn tmpfs_is_volatile() {
        if let Ok(shm) = of(Path::new("/dev/shm")) {
            assert_eq!((shm.name, shm.volatile), ("tmpfs", true));
        }
        assert!(of(Path::new("/no/such/directory")).is_err());
    }
}
