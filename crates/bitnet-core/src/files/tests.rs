use std::io::Write;

use bitnet_testing::temp::TempDir;

use super::*;

fn names(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_finished_file_replaces_and_an_abandoned_one_leaves_nothing() {
    [true, false].into_iter().for_each(file_replaces);
}

fn file_replaces(unnamed: bool) {
    let folder = TempDir::new("atomic");
    let target = folder.path().join("out");
    std::fs::write(&target, "old").unwrap();
    let mut file = AtomicFile::new(&target, unnamed).unwrap();
    file.write(b"half").unwrap();
    drop(file);
    assert_eq!((std::fs::read_to_string(&target).unwrap().as_str(), names(folder.path()).len()), ("old", 1));
    let mut file = AtomicFile::new(&target, unnamed).unwrap();
    file.write(b"new").unwrap();
    file.commit().unwrap();
    assert_eq!((std::fs::read_to_string(&target).unwrap().as_str(), names(folder.path()).len()), ("new", 1));
    let mut fresh = AtomicFile::new(&folder.path().join("fresh"), unnamed).unwrap();
    fresh.write(b"whole").unwrap();
    assert_eq!(std::fs::read_to_string(fresh.flushed().unwrap()).unwrap(), "whole");
    fresh.commit().unwrap();
    assert_eq!(std::fs::read_to_string(folder.path().join("fresh")).unwrap(), "whole");
    assert_eq!(names(folder.path()).len(), 2);
}

/// Another writer of the same target must not take it for what a killed program left.
#[cfg(target_os = "linux")]
#[test]
fn what_is_being_written_stays_however_its_folder_is_spelled() {
    let folder = TempDir::new("atomic-spelled");
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    let mut file = AtomicFile::new(&folder.path().join("out"), false).unwrap();
    file.write(b"whole").unwrap();
    assert!(AtomicFile::new(&folder.path().join("sub/../out"), false).is_err());
    file.commit().unwrap();
    assert_eq!(std::fs::read_to_string(folder.path().join("out")).unwrap(), "whole");
}

#[test]
fn a_folder_appears_whole_and_an_abandoned_one_leaves_nothing() {
    [true, false].into_iter().for_each(folder_appears);
}

fn folder_appears(unnamed: bool) {
    let folder = TempDir::new("atomic-folder");
    let target = folder.path().join("out");
    let mut half = AtomicFolder::new(&target, unnamed).unwrap();
    half.file("a").unwrap().write_all(b"x").unwrap();
    drop(half);
    assert_eq!(names(folder.path()).len(), 0);
    std::fs::create_dir(&target).unwrap();
    let mut whole = AtomicFolder::new(&target, unnamed).unwrap();
    whole.file("a").unwrap().write_all(b"x").unwrap();
    assert_eq!(whole.file("a").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(whole.laid_out().unwrap().join("a")).unwrap(), b"x");
    whole.commit().unwrap();
    assert_eq!((names(folder.path()), names(&target)), (vec!["out".to_owned()], vec!["a".to_owned()]));
    let error = AtomicFolder::create(&target).err().unwrap().to_string();
    assert!(error.contains("empty folder"), "{error}");
}

#[test]
#[cfg(target_os = "linux")]
fn what_a_killed_program_left_is_removed() {
    let folder = TempDir::new("atomic-stale");
    let stale = folder.path().join(format!(".out.{}.tmp", u32::MAX));
    let running = folder.path().join(format!(".out.{}.tmp", std::os::unix::process::parent_id()));
    let earlier = folder.path().join(format!(".out.{}.tmp", std::process::id()));
    std::fs::write(&earlier, "x").unwrap();
    std::fs::write(&stale, "x").unwrap();
    std::fs::write(&running, "x").unwrap();
    std::fs::write(folder.path().join(".out.txt.tmp"), "x").unwrap();
    let file = AtomicFile::new(&folder.path().join("out"), false).unwrap();
    assert!(!stale.exists() && running.exists() && earlier.exists());
    // What this process is writing is no leftover.
    drop(AtomicFile::create(&folder.path().join("out")).unwrap());
    assert!(earlier.exists());
    drop(file);
    // A folder that a killed program left goes as well.
    std::fs::create_dir(&stale).unwrap();
    std::fs::write(stale.join("model.safetensors"), "x").unwrap();
    drop(AtomicFolder::create(&folder.path().join("out")).unwrap());
    std::fs::remove_file(running).unwrap();
    assert_eq!(names(folder.path()), [".out.txt.tmp"]);
}

#[test]
#[cfg(target_os = "linux")]
fn nothing_has_a_name_before_it_is_whole() {
    let folder = TempDir::new("atomic-unnamed");
    if unnamed::create(folder.path()).is_none() {
        println!("SKIPPED: no files without a name in {}", folder.path().display());
        return;
    }
    let mut file = AtomicFile::create(&folder.path().join("out")).unwrap();
    file.write(&[7; 1 << 20]).unwrap();
    let mut whole = AtomicFolder::create(&folder.path().join("folder")).unwrap();
    whole.file("a").unwrap().write_all(b"x").unwrap();
    assert_eq!(names(folder.path()), [""; 0]);
    file.commit().unwrap();
    whole.commit().unwrap();
    assert_eq!(names(&folder.path().join("folder")), ["a"]);
    assert_eq!(std::fs::metadata(folder.path().join("out")).unwrap().len(), 1 << 20);
}

#[test]
#[cfg(unix)]
fn links_are_followed_and_devices_left_alone() {
    let folder = TempDir::new("atomic-link");
    let (target, link) = (folder.path().join("out"), folder.path().join("link"));
    std::fs::write(&target, "old").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let mut file = AtomicFile::create(&link).unwrap();
    file.write(b"new").unwrap();
    file.commit().unwrap();
    assert!(link.is_symlink());
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "new");
    let device = folder.path().join("device");
    std::os::unix::fs::symlink("/dev/full", &device).unwrap();
    let message = AtomicFile::create(&device).err().unwrap().to_string();
    assert!(message.contains("/dev/full") && message.contains("device"), "{message}");
}

#[test]
#[cfg(unix)]
fn what_replaces_a_file_or_folder_lets_nobody_else_at_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new("atomic-mode");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let set = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for unnamed in [true, false] {
        let (target, fresh) = (folder.path().join("out"), folder.path().join(format!("fresh-{unnamed}")));
        std::fs::write(&target, "old").unwrap();
        for wanted in [0o600, 0o640, 0o664, 0o400] {
            set(&target, wanted);
            let mut file = AtomicFile::new(&target, unnamed).unwrap();
            file.write(b"new").unwrap();
            assert_eq!(mode(file.flushed().unwrap()), wanted, "while it is written");
            file.commit().unwrap();
            assert_eq!((mode(&target), std::fs::read(&target).unwrap()), (wanted, b"new".to_vec()));
        }
        std::fs::remove_file(&target).unwrap();
        // A new file has what the mask of the process leaves.
        std::fs::write(&target, "").unwrap();
        AtomicFile::new(&fresh, unnamed).unwrap().commit().unwrap();
        assert_eq!(mode(&fresh), mode(&target));
        let inner = folder.path().join(format!("folder-{unnamed}"));
        std::fs::create_dir(&inner).unwrap();
        set(&inner, 0o700);
        let mut whole = AtomicFolder::new(&inner, unnamed).unwrap();
        whole.file("a").unwrap().write_all(b"x").unwrap();
        whole.commit().unwrap();
        assert_eq!((mode(&inner), names(&inner)), (0o700, vec!["a".to_owned()]));
    }
}

#[test]
fn a_target_that_cannot_be_is_refused_by_name() {
    let folder = TempDir::new("atomic-refused");
    for target in [folder.path().to_owned(), folder.path().join("absent/out")] {
        let error = AtomicFile::create(&target).err().unwrap();
        assert!(format!("{error:#}").contains(&target.display().to_string()), "{error:#}");
    }
    assert_eq!(names(folder.path()).len(), 0);
}
