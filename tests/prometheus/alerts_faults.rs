//! Faults of the machine and of clients: each on a broker of its own.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::Request;
use walcast::proto::client::PublishRequest;

use crate::alerts::{Publishing, Watch, fixed, small};
use crate::strace::Injection;
use crate::support::{Broker, Client, Mounted, Setup, eventually, random_bytes};

/// A pause that lets a publisher be gentle.
const GENTLE: Duration = Duration::from_millis(20);
/// What every broker here says when its log cannot take more.
const ROOM: [&str; 2] = ["log has no room", "strace:"];

/// The brokers, before anything happens to them.
#[derive(Debug)]
pub struct Stage {
    crashing: (Broker, String, String),
    failing: (Broker, String, String),
    stalling: (Setup, Broker),
    limited: Broker,
    flooded: Broker,
    filling: (Mounted, Broker),
    indexing: (Setup, Broker),
    gone: Broker,
    worn: Broker,
    growing: (Broker, String),
    old: Broker,
    new: (Broker, String),
}

impl Stage {
    /// Starts them all.
    pub async fn start() -> Self {
        let (setup, grpc, admin) = fixed(small());
        let crashing = (setup.start().await, grpc, admin);
        let said =
            ["log has failed", "log failed", "a task failed", "strace:", "walcast: committer failed", "housekeeper"];
        let (setup, grpc, admin) = fixed(said.into_iter().fold(small(), Setup::expect_log));
        let failing = (setup.start().await, grpc, admin);
        let setup = small();
        let stalling = (setup.clone(), setup.start().await);
        let limits = small()
            .expect_log("accept")
            .expect_log("log has no room")
            .set("limits.subscribers", "20")
            .set("limits.idempotency_keys", "10");
        let limited = limits.set("limits.connections", "40").start().await;
        let flooded = small().set("limits.in_flight_bytes", "1MiB").set("limits.admission_wait", "0s").start().await;
        let setup = ROOM.into_iter().fold(small(), Setup::expect_log);
        let disk = Mounted::tmpfs(&setup, "size=96M");
        let setup = setup.expect_log("checkpoint").data_dir(disk.at().join("data"));
        let filling = (disk, setup.start().await);
        // More than the four segments after which a gap begins, or what is not indexed is soon trimmed.
        let setup = small().expect_log("index").set("log.keep_bytes", "64MiB");
        let indexing = (setup.clone(), setup.start().await);
        let gone = small().set("log.keep_bytes", "2MiB").start().await;
        let worn = fixed(small()).0.start().await;
        let large = small()
            .set("limits.hot_tail_bytes", "1GiB")
            .set("limits.body_bytes", "1MiB")
            .set("limits.subscriber_bytes", "2MiB");
        let (setup, _, admin) = fixed(large.set("log.segment_bytes", "8MiB").set("log.keep_bytes", "16MiB"));
        let growing = (setup.start().await, admin);
        let old = small().start().await;
        let setup = small();
        let binary = another_version(setup.folder());
        let (setup, _, admin) = fixed(setup.binary(binary));
        let new = (setup.start().await, admin);
        Self { crashing, failing, stalling, limited, flooded, filling, indexing, gone, worn, growing, old, new }
    }

    /// Job and admin address of each that runs now.
    pub fn targets(&self) -> Vec<(&'static str, String)> {
        let brokers =
            [&self.stalling.1, &self.limited, &self.flooded, &self.filling.1, &self.indexing.1, &self.gone, &self.worn];
        let mut targets: Vec<_> = brokers.into_iter().map(|broker| ("walcast", broker.admin().to_owned())).collect();
        let fixed = [&self.crashing.2, &self.failing.2, &self.growing.1];
        targets.extend(fixed.map(|admin| ("walcast", admin.clone())));
        targets.extend([("versions", self.old.admin().to_owned()), ("versions", self.new.1.clone())]);
        targets
    }

    /// Begins every fault.
    pub fn run(self, watch: &impl Fn((&'static str, String)) -> Watch, running: &mut JoinSet<()>) {
        let on = |admin: &str| watch(("instance", admin.to_owned()));
        running.spawn(crashes(on(&self.crashing.2), self.crashing.0));
        running.spawn(log_fails(on(&self.failing.2), self.failing.0, self.failing.1));
        running.spawn(disk_stalls(on(self.stalling.1.admin()), self.stalling));
        running.spawn(limits_are_met(on(self.limited.admin()), self.limited));
        running.spawn(queue_is_full(on(self.flooded.admin()), self.flooded));
        running.spawn(disk_fills(on(self.filling.1.admin()), self.filling));
        running.spawn(index_is_behind(on(self.indexing.1.admin()), self.indexing));
        running.spawn(messages_are_gone(on(self.gone.admin()), self.gone));
        running.spawn(memory_grows(on(&self.growing.1), self.growing.0));
        running.spawn(versions_differ(watch(("job", "versions".to_owned())), self.old, self.new.0));
        running.spawn(ids_wear(on(self.worn.admin()), self.worn));
    }
}

/// kill -9, four times in a row, and then the broker stays away.
async fn crashes(watch: Watch, mut broker: Broker) {
    let fault = watch.fault("kill -9, four times", &["WalcastBrokerRestarts", "WalcastBrokerDown"]).await;
    broker.client().await.publish_kept("s", "body").await;
    for _ in 0..4 {
        // The start is told in whole seconds.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let stopped = broker.kill_nine().await;
        tear(&stopped.data().join("log/00000000000000000001.wal"));
        broker = stopped.start().await;
    }
    fault.fires("WalcastBrokerRestarts").await;
    watch.ends("WalcastBrokerRestarts").await;
    let fault = watch.fault("kill -9, not started again", &["WalcastBrokerDown"]).await;
    let stopped = broker.kill_nine().await;
    fault.fires("WalcastBrokerDown").await;
    let broker = stopped.start().await;
    watch.ends("WalcastBrokerDown").await;
    let fault = watch.fault("SIGSTOP", &["WalcastBrokerDown"]).await;
    broker.signal(rustix::process::Signal::STOP);
    fault.fires("WalcastBrokerDown").await;
    broker.signal(rustix::process::Signal::CONT);
    watch.ends("WalcastBrokerDown").await;
    broker.stop().await;
}

/// What a write that was under way leaves behind the last record, where everything else is zero.
fn tear(segment: &Path) {
    let bytes = fs::read(segment).expect("readable");
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("a record") as u64 + 1;
    let file = fs::OpenOptions::new().write(true).open(segment).expect("writable");
    file.write_all_at(&random_bytes(1, 100), end + 16).expect("written");
}

/// EIO of an fdatasync: the broker ends, and is started again.
async fn log_fails(watch: Watch, broker: Broker, grpc: String) {
    let _load = Publishing::start(&grpc, 1, 100, GENTLE);
    let trace = broker.data().with_extension("trace");
    let fault = watch.fault("EIO of an fdatasync", &["WalcastLogFailed", "WalcastErrorsLogged"]).await;
    let injection = Injection { calls: "fdatasync", how: "error=EIO:when=1", files: &[], thread: Some("committer") };
    let tracer = tokio::task::block_in_place(|| injection.attach(broker.pid(), &trace));
    let (logged, (status, stopped)) = tokio::join!(fault.fires("WalcastErrorsLogged"), broker.wait());
    let () = logged;
    assert_eq!(status.code(), Some(1));
    drop(tracer);
    let broker = stopped.start().await;
    // What a scrape may have seen of the process that failed is not what this is about.
    watch.prometheus().eventually(&format!("walcast_log_failed{{instance='{}'}} == 0", broker.admin())).await;
    fault.fires("WalcastLogFailed").await;
    watch.ends("WalcastErrorsLogged").await;
    watch.ends("WalcastLogFailed").await;
    broker.stop().await;
}

/// fdatasync that takes eight seconds, and then fdatasync that takes 0.2 s.
async fn disk_stalls(watch: Watch, (setup, broker): (Setup, Broker)) {
    let _load = Publishing::start(broker.grpc(), 2, 100, GENTLE);
    let stream = broker.client().await.publish_stream().await;
    let fault = watch.fault("an fdatasync that hangs", &["WalcastLogStalled", "WalcastFsyncSlow"]).await;
    let attach = |how: &'static str, trace: &str| {
        let injection = Injection { calls: "fdatasync", how, files: &[], thread: Some("committer") };
        tokio::task::block_in_place(|| injection.attach(broker.pid(), &setup.folder().join(trace)))
    };
    let tracer = attach("delay_enter=8000000:when=1", "stall");
    // Two, for one may be in the frame that hangs and the other is behind it: the queue of streams is seen, too.
    for _ in 0..2 {
        stream.send("stream", "body", 3_600).await;
        tokio::time::sleep(GENTLE).await;
    }
    fault.fires("WalcastLogStalled").await;
    watch.ends("WalcastLogStalled").await;
    drop((tracer, stream));
    let fault = watch.fault("each fdatasync takes 0.2 s more", &[]).await;
    let tracer = attach("delay_enter=200000", "slow");
    fault.fires("WalcastFsyncSlow").await;
    drop(tracer);
    watch.ends("WalcastFsyncSlow").await;
    broker.stop().await;
}

/// Limits that are set low, met one after the other.
async fn limits_are_met(watch: Watch, broker: Broker) {
    let client = broker.client().await;
    let fault = watch.fault("18 of 20 subscribers", &["WalcastSubscribersNearLimit"]).await;
    let mut held = Vec::new();
    for number in 0..18 {
        held.push(client.subscribe(&format!("s{number}")).await);
    }
    fault.fires("WalcastSubscribersNearLimit").await;
    drop(held);
    watch.ends("WalcastSubscribersNearLimit").await;

    let fault = watch.fault("60 connections where 40 are allowed", &["WalcastConnectionsRefused"]).await;
    let mut held = Vec::new();
    for _ in 0..60 {
        held.push(TcpStream::connect(broker.grpc()).await.expect("the kernel takes it"));
    }
    fault.fires("WalcastConnectionsRefused").await;
    drop(held);
    watch.ends("WalcastConnectionsRefused").await;

    let fault = watch.fault("30 keys where 10 are known", &["WalcastIdempotencyWindowTooSmall"]).await;
    for number in 0..30 {
        let key = format!("key {number}");
        let publish = PublishRequest { subject: "keys".to_owned(), idempotency_key: key, ..PublishRequest::default() };
        client.publish_request(Request::new(publish)).await.expect("accepted");
    }
    fault.fires("WalcastIdempotencyWindowTooSmall").await;
    watch.ends("WalcastIdempotencyWindowTooSmall").await;

    let fault = watch.fault("a lower limit of open files", &["WalcastFileDescriptors"]).await;
    let open = fs::read_dir(format!("/proc/{}/fd", broker.pid())).expect("it runs").count() as u64;
    let pid = Pid::from_raw(broker.pid().cast_signed()).expect("it runs");
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
    let lower = Rlimit { current: Some(open + 4), maximum: hard };
    let before = prlimit(Some(pid), Resource::Nofile, lower).expect("lowering is allowed");
    fault.fires("WalcastFileDescriptors").await;
    prlimit(Some(pid), Resource::Nofile, before).expect("up to the hard limit is allowed");
    watch.ends("WalcastFileDescriptors").await;
    drop(client);
    broker.stop().await;
}

/// More large publishes at once than may be in flight.
async fn queue_is_full(watch: Watch, broker: Broker) {
    let fault = watch.fault("80 publishers of 30 KiB, a slow disk, 1 MiB in flight", &["WalcastQueueFull"]).await;
    let trace = broker.data().with_extension("trace");
    let injection = Injection { calls: "fdatasync", how: "delay_enter=50000", files: &[], thread: Some("committer") };
    let tracer = tokio::task::block_in_place(|| injection.attach(broker.pid(), &trace));
    let load = Publishing::start(broker.grpc(), 80, 30 * 1024, GENTLE);
    fault.fires("WalcastQueueFull").await;
    drop((load, tracer));
    watch.ends("WalcastQueueFull").await;
    broker.stop().await;
}

/// A small file system fills by the second, and then the folder of the checkpoints cannot be written.
async fn disk_fills(watch: Watch, (disk, broker): (Mounted, Broker)) {
    let ballast = disk.at().join("ballast");
    let fill = |kibibytes: u64| {
        let file = fs::OpenOptions::new().create(true).append(true).open(&ballast);
        std::io::copy(&mut std::io::Read::take(std::io::repeat(7), kibibytes * 1024), &mut file.expect("ours")).ok();
    };
    let fault =
        watch.fault("a file grows on a disk of 96 MiB", &["WalcastDiskWillFill", "WalcastCheckpointsFail"]).await;
    let free = rustix::fs::statvfs(disk.at()).expect("it is there");
    fill((free.f_bavail * free.f_frsize / 1024).saturating_sub(20 * 1024));
    let filling = async {
        loop {
            fill(100);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::select! {
        () = fault.fires("WalcastDiskWillFill") => {}
        () = filling => {}
    }
    fs::remove_file(&ballast).expect("it was made");
    watch.ends("WalcastDiskWillFill").await;

    let fault = watch.fault("the folder of checkpoints is read-only", &[]).await;
    let load = Publishing::start(broker.grpc(), 2, 16 * 1024, GENTLE);
    let setup = Setup::new();
    let over = Mounted::tmpfs_at(&setup, broker.data().join("ids"), "size=1M,ro");
    fault.fires("WalcastCheckpointsFail").await;
    drop(over);
    watch.ends("WalcastCheckpointsFail").await;
    drop(load);
    broker.stop().await;
}

/// Index files that cannot be written.
async fn index_is_behind(watch: Watch, (setup, broker): (Setup, Broker)) {
    let load = Publishing::start(broker.grpc(), 4, 16 * 1024, Duration::from_millis(2));
    let fault = watch.fault("EIO of writes to index files", &["WalcastIndexGap"]).await;
    let injection = Injection { calls: "pwrite64", how: "error=EIO:when=1+", files: &[], thread: Some("indexer") };
    let tracer = tokio::task::block_in_place(|| injection.attach(broker.pid(), &setup.folder().join("trace")));
    fault.fires("WalcastIndexGap").await;
    drop(tracer);
    watch.ends("WalcastIndexGap").await;
    drop(load);
    broker.stop().await;
}

/// A subscriber that reads nothing while the log, the only history, is trimmed.
async fn messages_are_gone(watch: Watch, broker: Broker) {
    let fault = watch.fault("a subscriber sleeps, the log keeps 2 MiB", &["WalcastSubscriptionsEnded"]).await;
    let mut slow = Client::connect_narrow(broker.grpc()).await.subscribe("torrent").await;
    let client = broker.client().await;
    for number in 0..400 {
        client.publish("torrent", random_bytes(number, 32 * 1024), 3_600).await.expect("accepted");
    }
    eventually("the log to be trimmed", || async { (broker.position("trimmed").await > 200.0).then_some(()) }).await;
    let read = async { slow.drain().await.1.expect("it was ended") };
    let (status, ()) = tokio::join!(read, fault.fires("WalcastSubscriptionsEnded"));
    assert_eq!(status.code(), tonic::Code::OutOfRange);
    watch.ends("WalcastSubscriptionsEnded").await;
    drop(client);
    broker.stop().await;
}

/// The checkpoint says that a subject is near its last id, as it would after 1.8 thousand million publishes.
async fn ids_wear(watch: Watch, broker: Broker) {
    const NEARLY_ALL: u32 = 1_800_000_000;
    broker.client().await.publish_kept("worn", "one").await;
    let fault = watch.fault("a checkpoint with id 1,800,000,000", &["WalcastIdsNearTheEnd"]).await;
    let stopped = broker.stop().await;
    let path = stopped.data().join("ids/high-water-marks");
    let mut file = fs::read(&path).expect("an orderly stop takes a checkpoint");
    let at = file.windows(5).position(|bytes| bytes == b"\x04worn").expect("the subject is in it") + 5;
    file[at..at + 4].copy_from_slice(&NEARLY_ALL.to_le_bytes());
    let end = file.len() - 4;
    let sum = crc32c::crc32c(&file[..end]);
    file[end..].copy_from_slice(&sum.to_le_bytes());
    fs::write(&path, file).expect("ours");
    let broker = stopped.start().await;
    fault.fires("WalcastIdsNearTheEnd").await;
    let id = broker.client().await.publish_kept("worn", "two").await;
    assert_eq!(id.cast_unsigned(), NEARLY_ALL + 1, "it is what the broker goes on from");
    broker.stop().await;
}

/// A hot tail that is allowed more than it ever gets, filled by 4 MiB a second.
async fn memory_grows(watch: Watch, broker: Broker) {
    let fault = watch.fault("4 MiB a second into memory", &["WalcastMemoryGrows"]).await;
    let load = Publishing::start(broker.grpc(), 1, 1024 * 1024 - 1024, Duration::from_millis(220));
    fault.fires("WalcastMemoryGrows").await;
    drop(load);
    let broker = broker.stop().await.start().await;
    watch.ends("WalcastMemoryGrows").await;
    broker.stop().await;
}

/// Two versions run, and then one.
async fn versions_differ(watch: Watch, old: Broker, new: Broker) {
    let fault = watch.fault("a second version runs", &["WalcastVersionsDiffer"]).await;
    fault.fires("WalcastVersionsDiffer").await;
    old.stop().await;
    watch.ends("WalcastVersionsDiffer").await;
    new.stop().await;
}

/// The same binary, but for the version that it says to have.
fn another_version(folder: &Path) -> PathBuf {
    let (version, another) = (env!("CARGO_PKG_VERSION").as_bytes(), b"9.9.9");
    assert_eq!(version.len(), another.len(), "a version of another length needs another stand-in");
    let mut binary = fs::read(env!("CARGO_BIN_EXE_walcast")).expect("it was built");
    let found: Vec<usize> = memchr::memmem::find_iter(&binary, version).collect();
    for at in found {
        binary[at..at + another.len()].copy_from_slice(another);
    }
    let path = folder.join("walcast-of-another-version");
    fs::write(&path, binary).expect("ours");
    let mut rights = fs::metadata(&path).expect("it is there").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut rights, 0o755);
    fs::set_permissions(&path, rights).expect("ours");
    path
}
