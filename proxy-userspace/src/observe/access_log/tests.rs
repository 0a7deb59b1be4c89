use super::*;
use crate::config::model::http::{LogFormat, LogTarget};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

fn writer() -> Writer {
    Writer::start(Arc::default()).expect("a thread")
}

fn logger(writer: &Writer, path: &Path) -> Logger {
    let sink = writer
        .sink(&LogTarget::File(path.to_owned()))
        .expect("opens");
    let format = LogFormat::Template("$listener".to_owned());
    let format = Arc::new(Format::compile(&format).expect("valid"));
    writer.logger(sink, format, 1.0)
}

fn record(listener: &str) -> Record<'_> {
    Record {
        listener,
        ..Record::default()
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn what_is_logged_is_in_the_file_when_the_writer_has_stopped() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let writer = writer();
    let (mut a, mut b) = (logger(&writer, &path), logger(&writer, &path));
    assert!(a.log(&record("one")));
    assert!(!a.log(&record("two")));
    b.log(&record("three"));
    a.flush();
    drop(b);
    assert!(writer.stop(PATIENCE));
    assert_eq!(
        fs::read_to_string(&path).expect("a file"),
        "one\ntwo\nthree\n"
    );
    assert_eq!(writer.counters().written.load(Relaxed), 3);
    // After the end, nothing hangs and nothing is lost silently.
    a.log(&record("late"));
    a.flush();
    assert_eq!(writer.counters().dropped_behind.load(Relaxed), 1);
}

#[test]
fn a_full_buffer_is_handed_over_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let writer = writer();
    let mut logger = logger(&writer, &path);
    let name = "x".repeat(1000);
    for _ in 0..33 {
        logger.log(&record(&name));
    }
    until("a full buffer is written", || {
        fs::metadata(&path).is_ok_and(|file| file.len() >= 32 << 10)
    });
    assert!(logger.log(&record("first of the next buffer")));
}

#[test]
fn files_are_opened_again_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, rotated) = (folder.path().join("log"), folder.path().join("log.1"));
    let writer = writer();
    let mut logger = logger(&writer, &path);
    logger.log(&record("old"));
    logger.flush();
    until("the line is written", || {
        writer.counters().written.load(Relaxed) == 1
    });
    fs::rename(&path, &rotated).expect("renames");
    writer.reopen();
    until("a new file", || path.exists());
    logger.log(&record("new"));
    logger.flush();
    assert!(writer.stop(PATIENCE));
    assert_eq!(fs::read_to_string(&path).expect("a file"), "new\n");
    assert_eq!(fs::read_to_string(&rotated).expect("a file"), "old\n");
}

#[test]
fn one_target_is_opened_once_and_a_missing_folder_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let target = LogTarget::File(folder.path().join("log"));
    let writer = writer();
    let first = writer.sink(&target).expect("opens");
    let second = writer.sink(&target).expect("opens");
    assert!(Arc::ptr_eq(&first, &second));
    let nowhere = LogTarget::File(folder.path().join("none/log"));
    assert!(writer.sink(&nowhere).is_err());
}

#[test]
fn a_write_that_fails_is_counted_with_its_lines() {
    let writer = writer();
    let mut logger = logger(&writer, &PathBuf::from("/dev/full"));
    logger.log(&record("a"));
    logger.log(&record("b"));
    logger.flush();
    assert!(writer.stop(PATIENCE));
    let counters = writer.counters();
    assert_eq!(counters.errors.load(Relaxed), 1);
    assert_eq!(counters.dropped_failed.load(Relaxed), 2);
    assert_eq!(counters.written.load(Relaxed), 0);
}

#[test]
fn a_stuck_output_stops_no_worker_and_its_lines_are_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("a pipe");
    // A reader that never reads; opened for both so that neither opening waits.
    let reader = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .expect("opens");
    let writer = writer();
    let mut logger = logger(&writer, &path);
    let name = "x".repeat(8 << 10);
    let mut lines = 0;
    until("lines are dropped", || {
        logger.log(&record(&name));
        lines += 1;
        writer.counters().dropped_behind.load(Relaxed) > 0
    });
    assert!(!writer.stop(Duration::from_millis(20)));
    let in_flight = 2 + 128; // The channel's, and those in the thread's hands.
    assert!(lines <= 5 * in_flight, "{lines} lines were taken");
    drop(reader);
}

#[test]
fn failures_are_logged_whatever_the_share_is() {
    let writer = writer();
    let sink = writer
        .sink(&LogTarget::File(PathBuf::from("/dev/null")))
        .expect("opens");
    let format = Arc::new(Format::compile(&LogFormat::Json).expect("valid"));
    let none = writer.logger(Arc::clone(&sink), Arc::clone(&format), 0.0);
    assert!(!none.wants(200, 0.0));
    assert!(none.wants(502, 0.9));
    let half = writer.logger(Arc::clone(&sink), Arc::clone(&format), 0.5);
    assert!(half.wants(200, 0.49) && !half.wants(200, 0.5));
    let all = writer.logger(sink, format, 1.0);
    assert!(all.wants(200, 0.999_999));
}

#[test]
fn every_end_has_its_own_label_and_known_letters() {
    let labels: std::collections::BTreeSet<_> = End::ALL.iter().map(|end| end.label()).collect();
    assert_eq!(labels.len(), End::ALL.len());
    for (index, &end) in End::ALL.iter().enumerate() {
        assert_eq!(end as usize, index);
        assert!(b"-CSPLRIDKcs".contains(&end.haproxy_cause()));
        assert_eq!(end.side() == Side::Nobody, end.haproxy_cause() == b'-');
    }
}

#[test]
fn every_end_is_documented_as_it_is() {
    let text = include_str!("../../../../docs/access-logs.md");
    for end in End::ALL {
        let row = format!(
            "| `{}` | {} | `{}` | `{}` |",
            end.label(),
            end.side().label(),
            char::from(end.haproxy_cause()),
            end.envoy_flag()
        );
        assert!(text.contains(&row), "{row}");
    }
}
