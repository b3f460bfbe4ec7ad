//! How a broker with a failed log must end.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::load::Load;
use crate::support::{Broker, Client, eventually};
use crate::table::{Report, Run};

/// How long health may go on to say SERVING after the failure.
pub const NOT_SERVING_WITHIN: Duration = Duration::from_secs(1);
/// How long the process may live after the failure.
pub const EXIT_WITHIN: Duration = Duration::from_secs(5);
/// How long the load may need until it meets the fault.
const FAULT_WITHIN: Duration = Duration::from_secs(20);
/// How long a control is given to go on as if nothing had happened.
const CONTROL_GOES_ON: Duration = Duration::from_secs(2);

/// Waits until the fault has ended the log and checks how the broker ends. One that goes on is killed.
pub async fn log_failure(broker: Broker, load: Load, run: Run, report: &mut Report) {
    let time = if run.variant.is_control() { CONTROL_GOES_ON } else { FAULT_WITHIN };
    let client = broker.client().await;
    if log_fails(&load, time, report).await {
        observe_end(broker, client, load, report).await;
    } else {
        drop(broker.kill_nine().await);
        drop(load.ends().await);
    }
}

/// Waits until a publisher is told that the log failed.
async fn log_fails(load: &Load, time: Duration, report: &mut Report) -> bool {
    let failed = eventually("the log to fail", || async { load.seen.failed_at() });
    let failed = tokio::time::timeout(time, failed).await.is_ok();
    report.check(failed, || "publishes go on as if nothing had happened".to_owned());
    failed
}

/// Health, the end of the process, and what was acknowledged meanwhile.
async fn observe_end(broker: Broker, client: Client, load: Load, report: &mut Report) {
    let failed_at = load.seen.failed_at().expect("it was waited for");
    let not_serving = not_serving(client).await.saturating_duration_since(failed_at);
    report.check(not_serving <= NOT_SERVING_WITHIN, || format!("health went on for {not_serving:.1?}"));
    let (status, stopped) = broker.wait().await;
    let exit = failed_at.elapsed();
    report.check(exit <= EXIT_WITHIN, || format!("the process lived on for {exit:.1?}"));
    report.check(status.code() == Some(1), || format!("it ended with {status}"));
    report.figure(format!("NOT_SERVING after {not_serving:.1?}, exit after {exit:.1?}"));
    report.detected = Some(stopped.logged("log failed, nothing more is taken") as u64);
    report.check(report.detected == Some(1), || "the failure is not in its log".to_owned());
    let seen = load.ends().await;
    let late = seen.acknowledged_late.load(Ordering::SeqCst);
    report.check(late == 0, || format!("{late} publishes were acknowledged after the failure was known"));
    report.check(seen.others().is_empty(), || format!("answered otherwise: {:?}", seen.others()));
}

/// When health said NOT_SERVING, or could not be asked any more.
pub async fn not_serving(client: Client) -> Instant {
    let mut health = HealthClient::new(client.channel());
    loop {
        let answer = health.check(HealthCheckRequest { service: "broker.Broker".to_owned() }).await;
        match answer {
            Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => {}
            _ => return Instant::now(),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
