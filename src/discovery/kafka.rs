//! Finding the brokers of a Kafka cluster.
//!
//! Clients' metadata passes through mecha, and what it says of brokers is remembered. But a client may know its brokers
//! longer than this process lives, and go to one before anybody has asked for metadata; and a broker that moves must be
//! followed though nobody asks. So mecha asks, too: at the start, now and then, and when a client waits for a broker or a
//! broker cannot be reached. Where brokers want to know who asks, and mecha has nothing to say (`auth`), they do not
//! answer; then clients' own metadata is all there is.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use mecha_clusters::{Broker, Brokers, CurrentLogin};
use mecha_config::ClusterSpec;
use mecha_kafka::addresses::{self, Address as Told};
use mecha_kafka::frame::{Head, RequestHead, ResponseHead};
use mecha_kafka::table::ApiKey;
use mecha_transport::Address;
use mecha_transport::tls::ClientTls;

use super::FLOOR;
use super::query::{MAX_ANSWER, Manners, Query};
use crate::assembly::address_of;
use crate::session::kafka::{Credentials, broker, log_in};

/// A version of Metadata that every broker since 0.10 has, and that can ask for brokers alone.
const VERSION: i16 = 1;

/// Starts asking the brokers of `cluster` about each other, on a thread of its own. It ends when nobody else wants to
/// know.
///
/// # Errors
/// The system gives no thread.
pub fn watch_brokers(
    brokers: &Arc<Brokers>,
    cluster: &ClusterSpec,
    tls: Option<Arc<ClientTls>>,
    login: CurrentLogin,
) -> io::Result<()> {
    let (brokers, spec) = (Arc::downgrade(brokers), cluster.clone());
    let main = move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        match runtime {
            Ok(runtime) => runtime.block_on(watch(&brokers, &spec, tls, login)),
            Err(error) => tracing::error!(%error, "discovery has no runtime"),
        }
    };
    std::thread::Builder::new().name("mecha-discovery".into()).spawn(main).map(drop)
}

async fn watch(
    brokers: &Weak<Brokers>,
    spec: &ClusterSpec,
    tls: Option<Arc<ClientTls>>,
    login: CurrentLogin,
) {
    let credentials = Credentials::new(login);
    let manners = Manners { tls, ..Manners::default() };
    let mut is_failing = false;
    while let Some(known) = brokers.upgrade() {
        match find(&known, spec, &manners, &credentials).await {
            Ok(all) => {
                is_failing = false;
                if known.learn(all, true) {
                    tracing::info!(cluster = %spec.name, brokers = known.all().len(), "brokers found");
                }
            }
            Err(error) if !is_failing => {
                is_failing = true;
                tracing::warn!(cluster = %spec.name, %error, "no broker tells about the others; clients' metadata has to do");
            }
            Err(_) => {}
        }
        tokio::time::sleep(FLOOR).await;
        // Processes must not ask in step.
        let wait = spec.refresh.mul_f64(0.8 + 0.4 * fastrand::f64());
        let _ = tokio::time::timeout(wait, known.wanted()).await;
    }
}

/// Asks whoever is known, until one answers.
async fn find(
    known: &Brokers,
    spec: &ClusterSpec,
    manners: &Manners,
    credentials: &Credentials,
) -> io::Result<Vec<Broker>> {
    let mut candidates: Vec<Address> = spec.endpoints.iter().map(address_of).collect();
    for address in known.all().into_iter().map(|(broker, _)| broker.address) {
        if !candidates.contains(&address) {
            candidates.push(address);
        }
    }
    let mut why = io::Error::from(io::ErrorKind::NotFound);
    for address in candidates {
        match ask(&address, spec.connect_timeout, manners, credentials).await {
            Ok(all) => return Ok(all),
            Err(error) => why = error,
        }
    }
    Err(why)
}

async fn ask(
    address: &Address,
    timeout: Duration,
    manners: &Manners,
    credentials: &Credentials,
) -> io::Result<Vec<Broker>> {
    let mut query = Query::to(address, timeout, manners).await?;
    let asking = async {
        let (read, write) = query.halves();
        log_in(credentials, read, write).await?;
        let mut request = Vec::new();
        let name = b"mecha";
        // The client's name, and a list of no topics.
        let body = 2 + name.len() as u32 + 4;
        RequestHead { key: ApiKey::METADATA, version: VERSION, correlation: 1, body }.write(&mut request);
        request.extend_from_slice(&(name.len() as i16).to_be_bytes());
        request.extend_from_slice(name);
        request.extend_from_slice(&0i32.to_be_bytes());
        query.send(&request).await?;
        let mut head = [0; ResponseHead::SIZE];
        query.fill(&mut head).await?;
        let size = ResponseHead::read(&head).map(|head| head.body as usize);
        let size = size.filter(|size| *size <= MAX_ANSWER).ok_or(io::ErrorKind::InvalidData)?;
        let mut body = vec![0; size];
        query.fill(&mut body).await?;
        Ok::<_, io::Error>(body)
    };
    let answered = tokio::time::timeout(timeout, asking).await;
    let body = answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    let mut all = Vec::new();
    let mut take = |node: addresses::Node<'_>| {
        all.extend(broker(&node));
        Told { host: "".into(), port: 0 }
    };
    let read = addresses::rewrite(ApiKey::METADATA, VERSION, &body, &mut take, &mut Vec::new());
    read.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    if all.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(all) }
}
