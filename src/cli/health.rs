//! `eventexport health`: asks every Pod of an operator whether it is ready and whether it leads. For `helm test`, whose
//! image has no shell. Network I/O; reads only.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, anyhow};

use super::exit::{CliError, Exit};
use super::output::write_stdout;
use crate::api::sanitize;

/// Maximum time for one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of Pods that are asked.
const PODS_MAX: usize = 32;

/// Maximum bytes of a reply that are read: 64 MiB, enough for the metrics of 100,000 resources.
const REPLY_MAX: usize = 64 << 20;

/// Line of the metrics of a leader.
const LEADS: &str = "eventexport_leader 1";

/// Check that every Pod of an operator is ready, and that one of them leads.
///
/// Exit codes: 0 so it is; 1 a Pod is not ready or none leads; 3 no Pod could be asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct HealthArgs {
    /// Address of the operator's metrics, plain HTTP: a headless Service with the addresses of all Pods, or one Pod
    #[arg(value_name = "HOST:PORT")]
    pub address: String,
}

const EXAMPLES: &str = "\
Examples:
  eventexport health eventexport-metrics.eventexport-system.svc:8080
  eventexport health 127.0.0.1:8080";

/// State of one Pod.
#[derive(Debug, PartialEq, Eq)]
struct PodHealth {
    address: SocketAddr,
    /// Reason that the Pod is not ready.
    problem: Option<String>,
    leads: bool,
}

/// Runs `eventexport health`.
pub async fn run(args: &HealthArgs) -> Result<Exit, CliError> {
    let pods = ask_all(&args.address).await.map_err(CliError::Unchecked)?;
    let (text, exit) = summarize(&pods);
    write_stdout(&text)?;
    Ok(exit)
}

async fn ask_all(address: &str) -> anyhow::Result<Vec<PodHealth>> {
    let resolved = tokio::time::timeout(REQUEST_TIMEOUT, tokio::net::lookup_host(address)).await;
    let resolved = resolved
        .map_err(anyhow::Error::from)
        .and_then(|found| Ok(found?))
        .with_context(|| format!("HOST:PORT: cannot resolve {address}"))?;
    let mut addresses: Vec<SocketAddr> = resolved.collect();
    addresses.sort();
    addresses.dedup();
    addresses.truncate(PODS_MAX);
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(REQUEST_TIMEOUT)
        .build()
        .context("cannot create an HTTP client")?;
    let mut pods = Vec::new();
    for address in addresses {
        pods.push(ask(&client, address).await);
    }
    if pods.is_empty() {
        return Err(anyhow!("HOST:PORT: {address} has no address: no Pod runs"));
    }
    Ok(pods)
}

async fn ask(client: &reqwest::Client, address: SocketAddr) -> PodHealth {
    let problem = match get(client, address, "readyz").await {
        Ok((true, _)) => None,
        Ok((false, body)) => Some(sanitize(body.trim()).into_owned()),
        Err(error) => Some(sanitize(&format!("{error:#}")).into_owned()),
    };
    let metrics = match &problem {
        None => get(client, address, "metrics").await.ok(),
        Some(_) => None,
    };
    let leads = metrics.is_some_and(|(_, text)| text.lines().any(|line| line == LEADS));
    PodHealth {
        address,
        problem,
        leads,
    }
}

/// Returns true for a reply of success, and its text.
async fn get(client: &reqwest::Client, address: SocketAddr, path: &str) -> anyhow::Result<(bool, String)> {
    let mut reply = client.get(format!("http://{address}/{path}")).send().await?;
    let mut body = Vec::new();
    while let Some(chunk) = reply.chunk().await? {
        anyhow::ensure!(
            body.len() + chunk.len() <= REPLY_MAX,
            "the reply is larger than {REPLY_MAX} bytes"
        );
        body.extend_from_slice(&chunk);
    }
    Ok((
        reply.status().is_success(),
        String::from_utf8_lossy(&body).into_owned(),
    ))
}

fn summarize(pods: &[PodHealth]) -> (String, Exit) {
    let mut text = String::new();
    for pod in pods {
        let state = match (&pod.problem, pod.leads) {
            (Some(problem), _) => problem.as_str(),
            (None, true) => "ready, leads",
            (None, false) => "ready, stands by",
        };
        let _ = writeln!(text, "{}: {state}", pod.address);
    }
    let healthy = pods.iter().all(|pod| pod.problem.is_none());
    let led = pods.iter().any(|pod| pod.leads);
    if healthy && !led {
        text.push_str("no Pod leads: look at the Lease and the logs of the Pods\n");
    }
    (text, if healthy && led { Exit::Done } else { Exit::Failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_must_be_ready_and_one_must_lead() {
        let pod = |problem: Option<&str>, leads| PodHealth {
            address: SocketAddr::from(([127, 0, 0, 1], 8080)),
            problem: problem.map(ToOwned::to_owned),
            leads,
        };
        for (pods, exit, word) in [
            (vec![pod(None, true), pod(None, false)], Exit::Done, "leads"),
            (vec![pod(None, false)], Exit::Failed, "no Pod leads"),
            (
                vec![pod(None, true), pod(Some("not ready: starting"), false)],
                Exit::Failed,
                "starting",
            ),
        ] {
            let (text, found) = summarize(&pods);
            assert_eq!(found, exit, "{text}");
            assert!(text.contains(word), "{text}");
        }
    }
}
