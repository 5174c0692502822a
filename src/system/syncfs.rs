//! Whether `syncfs` is to be believed: whether all that was written to a disk is durable once it says so.

/// File systems, by their number in statfs(2), and the first kernel.
const BELIEVED: [(u32, (u32, u32)); 5] = [
    // Of ext2, ext3 and ext4.
    (0xef53, TELLS_ALL),
    // XFS.
    (0x5846_5342, TELLS_ALL),
    // Btrfs.
    (0x9123_683e, TELLS_ALL),
    // F2FS.
    (0xf2f5_2010, TELLS_ALL),
    // tmpfs: nothing on it outlives a power cut, however it is synced.
    (0x0102_1994, (0, 0)),
];

/// Linux 5.17: from 5.8 on `syncfs` tells of bytes that could not be written; what failed within the file system, as when its journal
/// was given up, it told nobody before this.
const TELLS_ALL: (u32, u32) = (5, 17);

/// Whether a file system and a kernel's release are among them. Others may say that all is well without having done anything, as all in
/// user space (FUSE) do.
pub(super) fn is_believed(file_system: u32, release: &str) -> bool {
    let since = BELIEVED.iter().find(|(number, _)| *number == file_system).map(|(_, since)| *since);
    since.is_some_and(|since| version(release) >= since)
}

/// The two numbers in front of a release; 0 for what isn't there.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::{Disk, SystemDisk};

    #[test]
    fn a_file_system_that_is_not_among_them_has_no_syncer() {
        let refused = SystemDisk.syncer(std::path::Path::new("/proc")).err().map(|error| error.kind());
        assert_eq!(refused, Some(std::io::ErrorKind::Unsupported));
    }

    #[test]
    fn it_is_believed_where_kernel_and_file_system_tell_what_failed() {
        let (ext4, xfs, btrfs, f2fs, tmpfs) = (0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x0102_1994);
        for release in ["5.17.0", "5.17-rc8", "5.19.0-50-generic", "6.1.0-28-amd64", "6.18.5", "10.0.1+"] {
            assert!([ext4, xfs, btrfs, f2fs, tmpfs].into_iter().all(|number| is_believed(number, release)), "{release}");
            let (fuse, nfs, cifs, overlay, zfs, vfat) = (0x6573_5546, 0x6969, 0xff53_4d42, 0x794c_7630, 0x2fc1_2fc1, 0x4d44);
            assert!(
                [0, fuse, nfs, cifs, overlay, zfs, vfat].into_iter().all(|number| !is_believed(number, release)),
                "{release}"
            );
        }
        for release in
            ["5.16.20", "5.15.0-91-generic", "5.10.0-32-amd64", "4.18.0-553.el8", "4.99", "2.6.32", "5", "", "x.y", "x.17"]
        {
            assert!([ext4, xfs, btrfs, f2fs].into_iter().all(|number| !is_believed(number, release)), "{release}");
            assert!(is_believed(tmpfs, release));
        }
    }
}
