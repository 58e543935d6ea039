//! Disks that fill or turn read-only: file systems of our own, where nobody else sees them.

use std::process::Command;

use super::*;

const INSIDE: &str = "BITTUBE_TEST_MOUNTS";

/// Whether this process may mount; if not, runs `test` in one that may. Without any, the test
/// fails: what cannot be mounted is not tested.
fn in_namespace(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    let output = command
        .arg(std::env::current_exe().unwrap())
        .args([&format!("store::tests::mounts::{test}"), "--exact"])
        .env(INSIDE, "1")
        .output()
        .expect("`unshare` is there, of util-linux");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        !told.starts_with("unshare:"),
        "no mount namespace: run as root, or allow user namespaces: {told}"
    );
    assert_one_passed(&output);
    false
}

/// A file system of its own.
struct Mount(TempDir);

impl Mount {
    fn new(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        run(
            "mount",
            &["-t", "tmpfs", "-o", options, "tmpfs"],
            &[dir.path()],
        );
        Self(dir)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[track_caller]
fn run(program: &str, args: &[&str], paths: &[&Path]) {
    let output = Command::new(program).args(args).args(paths).output();
    let output = output.unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {told}");
}

#[test]
fn a_full_disk_is_an_error_and_what_was_verified_stays() {
    if !in_namespace("a_full_disk_is_an_error_and_what_was_verified_stays") {
        return;
    }
    let mount = Mount::new("size=1m");
    let data = bytes(40 * PIECE as usize, 1);
    let meta = single(&data);
    let store = Store::open(mount.0.path(), ROOMY).unwrap();
    let mut torrent = store.open_torrent(&meta).unwrap();
    let mut good = Vec::new();
    let full = (0..40).find(|&piece| match fill(&mut torrent, &meta, &data, piece) {
        Ok(progress) => {
            assert_eq!(progress, Progress::Good);
            good.push(piece as usize);
            false
        }
        Err(error) => {
            assert!(matches!(error, Disk::Full), "{error}");
            true
        }
    });
    let full = full.unwrap();
    assert!(good.len() > 8, "{good:?}");
    assert!(matches!(
        torrent.room_for(u64::from(PIECE)),
        Err(Disk::Full)
    ));
    drop(torrent);
    let mut torrent = store.open_torrent(&meta).unwrap();
    assert_eq!(ones(torrent.have()), good);
    // With room again the same piece comes to its end.
    assert_eq!(torrent.evict(1, |_| true), [PieceIndex(0)]);
    sync(&mut torrent);
    torrent.room_for(u64::from(PIECE)).unwrap();
    let progress = fill(&mut torrent, &meta, &data, full).unwrap();
    assert_eq!(progress, Progress::Good);
    for piece in ones(torrent.have()) {
        assert!(is_right(&torrent, &meta, PieceIndex(piece as u32)));
    }
    torrent.close().unwrap();
}

#[test]
fn no_room_for_a_journal_is_told_at_once() {
    if !in_namespace("no_room_for_a_journal_is_told_at_once") {
        return;
    }
    let mount = Mount::new("size=64k");
    let data = bytes(40 * PIECE as usize, 1);
    let store = Store::open(mount.0.path(), ROOMY).unwrap();
    fs::write(mount.0.path().join("ballast"), vec![1; 60 * 1024]).unwrap();
    assert!(matches!(
        store.open_torrent(&single(&data)),
        Err(Disk::Full)
    ));
    store.remember(&single(&data), Some(("http://example.org/", "")));
    assert!(recall(&store, "http://example.org/").is_none());
}

#[test]
fn no_more_inodes_is_a_full_disk() {
    if !in_namespace("no_more_inodes_is_a_full_disk") {
        return;
    }
    let mount = Mount::new("size=1m,nr_inodes=6");
    let data = bytes(2 * PIECE as usize, 1);
    let meta = single(&data);
    let store = Store::open(mount.0.path(), ROOMY).unwrap();
    // The root, the lock, the catalog, the torrent's directory and journal: one is left.
    fs::write(mount.0.path().join("ballast"), b"").unwrap();
    let mut torrent = store.open_torrent(&meta).unwrap();
    assert!(matches!(
        fill(&mut torrent, &meta, &data, 0),
        Err(Disk::Full)
    ));
    fs::remove_file(mount.0.path().join("ballast")).unwrap();
    assert_eq!(fill(&mut torrent, &meta, &data, 0).unwrap(), Progress::Good);
}

#[test]
fn a_read_only_disk_is_no_store() {
    if !in_namespace("a_read_only_disk_is_no_store") {
        return;
    }
    let mount = Mount::new("size=4m");
    drop(Store::open(mount.0.path(), ROOMY).unwrap());
    run("mount", &["-o", "remount,bind,ro"], &[mount.0.path()]);
    assert!(matches!(
        Store::open(mount.0.path(), ROOMY),
        Err(StoreError::Io(_))
    ));
}

/// Turns what lies at `path` read-only for all who open it from now on. A whole file system with
/// files open for writing is turned by the kernel alone, when its disk fails.
fn turn_read_only(path: &Path) {
    run("mount", &["--bind"], &[path, path]);
    run("mount", &["-o", "remount,bind,ro"], &[path]);
}

#[track_caller]
fn assert_read_only<T>(result: Result<T, Disk>) {
    let error = result.map(|_| ()).unwrap_err();
    let kind = match &error {
        Disk::Io(error) => error.kind(),
        Disk::Full | Disk::Truncated => panic!("{error}"),
    };
    assert_eq!(kind, io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn what_turns_read_only_is_an_error_and_the_rest_goes_on() {
    if !in_namespace("what_turns_read_only_is_an_error_and_the_rest_goes_on") {
        return;
    }
    let mount = Mount::new("size=4m");
    let (meta, data) = several(12);
    let store = Store::open(mount.0.path(), ROOMY).unwrap();
    let mut torrent = store.open_torrent(&meta).unwrap();
    fill(&mut torrent, &meta, &data, 3).unwrap();
    torrent.close().unwrap();

    let mut torrent = store.open_torrent(&meta).unwrap();
    let home = mount.0.path().join(meta.info_hash.to_string());
    let last = home.join("4");
    turn_read_only(&last);
    // It was not open yet; what it holds is served all the same.
    let kept = range_of(&meta, 3);
    assert_eq!(read(&torrent, kept), part(&data, kept));
    assert_eq!(torrent.parts(kept).unwrap().count(), 1);
    assert_read_only(fill(&mut torrent, &meta, &data, 4));
    assert_eq!(fill(&mut torrent, &meta, &data, 0).unwrap(), Progress::Good);
    assert_eq!(torrent.evict(1, |piece| piece.0 == 3), [PieceIndex(3)]);
    sync(&mut torrent);
    assert_read_only(fill(&mut torrent, &meta, &data, 3));
    assert_eq!(ones(torrent.have()), [0]);
    run("umount", &[], &[&last]);
    for piece in [3, 4] {
        let progress = fill(&mut torrent, &meta, &data, piece).unwrap();
        assert_eq!(progress, Progress::Good, "{piece}");
    }
    torrent.close().unwrap();

    turn_read_only(&home);
    assert_read_only(store.open_torrent(&meta));
    run("umount", &[], &[&home]);
    let torrent = store.open_torrent(&meta).unwrap();
    assert_eq!(ones(torrent.have()), [0, 3, 4]);
}
