//! Takes the packets of a sandbox apart, finds or opens their flow, and drives all flows in one task.

use std::{
    collections::{HashMap, HashSet},
    future::{Future, poll_fn},
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use futures::task::AtomicWaker;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Sleep, sleep, timeout},
};

use super::{
    CONNECT_TIMEOUT, MTU, PACKETS_PER_SECOND, RESOLVER, SANDBOX_V4, SANDBOX_V6, TCP_FLOWS, UDP_FLOWS, UDP_IDLE,
    dns::{self, Relay},
    packet::{self, Content, Packet, Segment},
    policy::Policy,
    tcp::{self, Host, Progress},
    tun::{Link, Tun},
    udp,
};

/// Packets taken in one turn before the flows are served and the runtime gets the thread back.
const PACKETS_PER_TURN: u32 = 64;
/// Datagrams taken from one conversation in one turn.
const DATAGRAMS_PER_TURN: u32 = 32;
/// Buffer per direction of the first [`LARGE_FLOWS`] connections.
const LARGE_BUFFER: usize = 256 * 1024;
/// How many connections get a large buffer; more than these at a time get [`SMALL_BUFFER`]. Together this bounds
/// the buffers of a sandbox to 60 MB.
const LARGE_FLOWS: usize = 64;
/// Buffer per direction of further connections.
const SMALL_BUFFER: usize = 32 * 1024;
/// Room between a connection to the resolver and the relay.
const RESOLVER_BUFFER: usize = 16 * 1024;
/// How long a list of the host's own addresses is believed.
const OWN_ADDRESSES: Duration = Duration::from_secs(5);

/// Names a flow: the program's end and the destination.
type Key = (SocketAddr, SocketAddr);

/// The network of one sandbox.
pub(super) struct Stack {
    tun: Tun,
    policy: Policy,
    gateway: SocketAddr,
    own: OwnAddresses,
    started: Instant,
    budget: Budget,
    connections: HashMap<Key, Connection>,
    conversations: HashMap<Key, Conversation>,
    connecting: JoinSet<(Key, io::Result<TcpStream>)>,
    relay: Relay,
    /// Answers to name queries that came as datagrams.
    answers: JoinSet<(Key, Option<Vec<u8>>)>,
    /// Name queries over connections.
    resolving: JoinSet<()>,
    woken: Arc<Woken>,
    timer: Pin<Box<Sleep>>,
    packet: Vec<u8>,
    scratch: Vec<u8>,
}

/// A TCP connection of the sandbox.
enum Connection {
    /// The host is connecting; the program's SYN waits for the outcome.
    Opening {
        syn: Vec<u8>,
    },
    Open {
        flow: Box<tcp::Flow>,
        waker: Waker,
        due: Option<Instant>,
    },
}

struct Conversation {
    flow: udp::Flow,
    waker: Waker,
}

impl Stack {
    pub(super) fn new(tun: Tun, policy: Policy, gateway: SocketAddr) -> Self {
        let relay = Relay::new(&policy.resolvers, policy.egress != crate::Egress::None);
        Self {
            tun,
            policy,
            gateway,
            own: OwnAddresses::default(),
            started: Instant::now(),
            budget: Budget::new(Instant::now()),
            connections: HashMap::new(),
            conversations: HashMap::new(),
            connecting: JoinSet::new(),
            relay,
            answers: JoinSet::new(),
            resolving: JoinSet::new(),
            woken: Arc::default(),
            timer: Box::pin(sleep(Duration::ZERO)),
            packet: vec![0; MTU],
            scratch: vec![0; MTU],
        }
    }

    /// Serves until the device goes away.
    pub(super) async fn run(mut self) {
        // Turns are bounded by themselves; tokio's own budget would end them at an arbitrary flow.
        let error = tokio::task::unconstrained(poll_fn(|cx| self.turn(cx))).await;
        tracing::debug!(%error, "the network of a sandbox ended");
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let now = Instant::now();
        self.woken.parent.register(cx.waker());
        let mut touched: HashSet<Key> = HashSet::new();

        let mut again = match self.take_packets(cx, now, &mut touched) {
            Ok(more) => more,
            Err(error) => return Poll::Ready(error),
        };
        while let Poll::Ready(Some(finished)) = self.connecting.poll_join_next(cx) {
            if let Ok((key, result)) = finished {
                self.connected(key, result, &mut touched);
            }
        }
        while let Poll::Ready(Some(finished)) = self.answers.poll_join_next(cx) {
            if let Ok(((source, destination), Some(answer))) = finished
                && let Some(packet) = packet::udp(destination, source, &answer)
            {
                self.tun.send(&packet);
            }
        }
        while let Poll::Ready(Some(_)) = self.resolving.poll_join_next(cx) {}

        touched.extend(self.woken.take());
        let due =
            |connection: &Connection| matches!(connection, Connection::Open { due: Some(due), .. } if *due <= now);
        touched.extend(self.connections.iter().filter(|(_, connection)| due(connection)).map(|(key, _)| *key));
        for key in touched {
            self.serve_connection(key, now);
            again |= self.serve_conversation(key, now);
        }
        self.conversations.retain(|_, conversation| now.duration_since(conversation.flow.active) < UDP_IDLE);

        again |= self.arm(cx, now);
        if again {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Takes a bounded number of packets; true if there may be more to take at once.
    fn take_packets(&mut self, cx: &mut Context<'_>, now: Instant, touched: &mut HashSet<Key>) -> io::Result<bool> {
        for _ in 0..PACKETS_PER_TURN {
            if !self.budget.take(now) {
                return Ok(false);
            }
            // Moved out for the borrow checker; no allocation.
            let mut buffer = std::mem::take(&mut self.packet);
            let received = self.tun.poll_receive(cx, &mut buffer);
            if let Poll::Ready(Ok(length)) = received {
                self.take_packet(&buffer[..length], now, touched);
            }
            self.packet = buffer;
            match received {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.budget.give_back();
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn take_packet(&mut self, bytes: &[u8], now: Instant, touched: &mut HashSet<Key>) {
        let Some(packet) = packet::parse(bytes) else { return };
        if packet.source.ip() != SANDBOX_V4 && packet.source.ip() != SANDBOX_V6 {
            return;
        }
        let key = (packet.source, packet.destination);
        match packet.content {
            Content::Tcp(segment) => match self.connections.get_mut(&key) {
                Some(Connection::Open { flow, .. }) => {
                    let mut link = Link { tun: &self.tun, received: Some(bytes), scratch: &mut self.scratch };
                    flow.take(clock(self.started, now), &mut link);
                    touched.insert(key);
                }
                // The SYN again, because we have not answered yet.
                Some(Connection::Opening { .. }) => {}
                None => self.open_connection(&packet, &segment, bytes, now, touched),
            },
            Content::Udp(data) => {
                if self.take_datagram(&packet, data, now) {
                    touched.insert(key);
                } else {
                    self.tun.send(&packet::unreachable(&packet, bytes));
                }
            }
        }
    }

    fn open_connection(
        &mut self,
        packet: &Packet<'_>,
        segment: &Segment,
        bytes: &[u8],
        now: Instant,
        touched: &mut HashSet<Key>,
    ) {
        if segment.rst {
            return;
        }
        let key = (packet.source, packet.destination);
        if segment.syn && !segment.ack {
            if self.connections.len() >= TCP_FLOWS {
                tracing::debug!(destination = %packet.destination, limit = TCP_FLOWS, "refused: too many connections of one sandbox");
            } else if packet.destination == SocketAddr::new(RESOLVER, dns::PORT) {
                let (ours, theirs) = tokio::io::duplex(RESOLVER_BUFFER);
                self.resolving.spawn(self.relay.clone().connection(theirs));
                self.connections.insert(key, Connection::Opening { syn: bytes.to_vec() });
                self.opened(key, Host::Resolver(ours), touched);
                return;
            } else if let Some(target) = self.target(packet.destination, now) {
                self.connections.insert(key, Connection::Opening { syn: bytes.to_vec() });
                self.connecting.spawn(async move { (key, connect(target).await) });
                return;
            }
        }
        self.tun.send(&packet::reset(packet, segment));
    }

    /// Where a connection really goes; `None` if it is refused.
    fn target(&mut self, destination: SocketAddr, now: Instant) -> Option<SocketAddr> {
        let target = if destination == self.gateway {
            self.policy.gateway
        } else {
            self.permits(destination, now).then_some(destination)
        };
        if target.is_none() {
            tracing::debug!(%destination, "refused: the sandbox may not reach this address");
        }
        target
    }

    fn permits(&mut self, destination: SocketAddr, now: Instant) -> bool {
        // Our own side of the link, whatever network the operator has opened around it.
        destination.ip() != RESOLVER && self.policy.permits(destination.ip(), destination.port(), self.own.list(now))
    }

    fn connected(&mut self, key: Key, result: io::Result<TcpStream>, touched: &mut HashSet<Key>) {
        let stream = match result {
            Ok(stream) if key.1 == self.gateway || !self.is_ourselves(&stream) => stream,
            Ok(_) => return self.refuse(key, "the address is the host's own"),
            Err(error) => return self.refuse(key, &error.to_string()),
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::trace!(%error, "a connection keeps its delay");
        }
        self.opened(key, Host::World(stream), touched);
    }

    /// Catches an address that became the host's own after the list was made.
    fn is_ourselves(&self, stream: &TcpStream) -> bool {
        let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else { return true };
        local.ip() == peer.ip() && !self.policy.allow.iter().any(|network| network.contains(&peer.ip()))
    }

    fn refuse(&mut self, key: Key, reason: &str) {
        tracing::debug!(destination = %key.1, reason, "a connection of a sandbox failed");
        if let Some(Connection::Opening { syn }) = self.connections.remove(&key)
            && let Some(packet) = packet::parse(&syn)
            && let Content::Tcp(segment) = &packet.content
        {
            self.tun.send(&packet::reset(&packet, segment));
        }
    }

    fn opened(&mut self, key: Key, host: Host, touched: &mut HashSet<Key>) {
        let Some(Connection::Opening { syn }) = self.connections.remove(&key) else { return };
        let buffer = if self.connections.len() < LARGE_FLOWS { LARGE_BUFFER } else { SMALL_BUFFER };
        let now = clock(self.started, Instant::now());
        let mut link = Link { tun: &self.tun, received: Some(&syn), scratch: &mut self.scratch };
        let mut flow = Box::new(tcp::Flow::new(key.1, host, buffer, now, &mut link));
        flow.take(now, &mut link);
        let waker = self.woken.waker(key);
        self.connections.insert(key, Connection::Open { flow, waker, due: None });
        touched.insert(key);
    }

    fn serve_connection(&mut self, key: Key, now: Instant) {
        let Some(Connection::Open { flow, waker, due }) = self.connections.get_mut(&key) else { return };
        let mut link = Link { tun: &self.tun, received: None, scratch: &mut self.scratch };
        match flow.poll(&mut Context::from_waker(waker), clock(self.started, now), &mut link) {
            Progress::Open(delay) => *due = delay.map(|delay| now + delay),
            Progress::Done => {
                self.connections.remove(&key);
            }
        }
    }

    /// Passes a datagram on; false if it is refused.
    fn take_datagram(&mut self, packet: &Packet<'_>, data: &[u8], now: Instant) -> bool {
        let key @ (_, destination) = (packet.source, packet.destination);
        if destination == SocketAddr::new(RESOLVER, dns::PORT) {
            let answer = self.relay.clone().datagram(data.to_vec());
            self.answers.spawn(async move { (key, answer.await) });
            return true;
        }
        if !self.conversations.contains_key(&key) {
            if !self.permits(destination, now) {
                tracing::debug!(%destination, "refused: the sandbox may not send to this address");
                return false;
            }
            self.make_room();
            let flow = match udp::Flow::new(destination, now) {
                Ok(flow) => flow,
                Err(error) => {
                    tracing::debug!(%destination, %error, "a sandbox cannot send there");
                    return false;
                }
            };
            let opened = || self.policy.allow.iter().any(|network| network.contains(&destination.ip()));
            if flow.local_address().is_none_or(|local| local == destination.ip()) && !opened() {
                return false;
            }
            let waker = self.woken.waker(key);
            self.conversations.insert(key, Conversation { flow, waker });
        }
        let Some(conversation) = self.conversations.get_mut(&key) else { return false };
        if conversation.flow.send(data, now).is_err() {
            self.conversations.remove(&key);
            return false;
        }
        true
    }

    /// Ends the conversation that was silent longest, if there are too many.
    fn make_room(&mut self) {
        if self.conversations.len() >= UDP_FLOWS
            && let Some(oldest) =
                self.conversations.iter().min_by_key(|(_, conversation)| conversation.flow.active).map(|(key, _)| *key)
        {
            self.conversations.remove(&oldest);
        }
    }

    /// Takes what the world sent; true if there may be more.
    fn serve_conversation(&mut self, key: Key, now: Instant) -> bool {
        let Some(conversation) = self.conversations.get_mut(&key) else { return false };
        let mut cx = Context::from_waker(&conversation.waker);
        for _ in 0..DATAGRAMS_PER_TURN {
            match conversation.flow.poll_receive(&mut cx, &mut self.scratch, now) {
                Poll::Ready(Ok(length)) => {
                    if let Some(packet) = packet::udp(key.1, key.0, &self.scratch[..length]) {
                        self.tun.send(&packet);
                    }
                }
                Poll::Ready(Err(error)) => {
                    tracing::debug!(destination = %key.1, %error, "a UDP conversation of a sandbox ended");
                    self.conversations.remove(&key);
                    return false;
                }
                Poll::Pending => return false,
            }
        }
        self.woken.push(key);
        true
    }

    /// Sets the timer to the next moment at which something is due; true if that is now.
    fn arm(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let connections = self.connections.values().filter_map(|connection| match connection {
            Connection::Open { due, .. } => *due,
            Connection::Opening { .. } => None,
        });
        let conversations = self.conversations.values().map(|conversation| conversation.flow.active + UDP_IDLE);
        let next = connections.chain(conversations).chain(self.budget.refilled()).min();
        let Some(next) = next else { return false };
        if next <= now {
            return true;
        }
        self.timer.as_mut().reset(next.into());
        self.timer.as_mut().poll(cx).is_ready()
    }
}

/// Connects on the host.
async fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    timeout(CONNECT_TIMEOUT, TcpStream::connect(target))
        .await
        .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
}

/// smoltcp's time: since the stack started.
fn clock(started: Instant, now: Instant) -> smoltcp::time::Instant {
    let micros = now.saturating_duration_since(started).as_micros();
    smoltcp::time::Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}

/// The flows whose host sockets became ready since the last turn.
#[derive(Default)]
struct Woken {
    keys: Mutex<HashSet<Key>>,
    parent: AtomicWaker,
}

impl Woken {
    fn push(&self, key: Key) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    fn take(&self) -> HashSet<Key> {
        std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn waker(self: &Arc<Self>, key: Key) -> Waker {
        Waker::from(Arc::new(FlowWaker { key, woken: Arc::clone(self) }))
    }
}

/// Remembers which flow was woken, then wakes the stack.
struct FlowWaker {
    key: Key,
    woken: Arc<Woken>,
}

impl Wake for FlowWaker {
    fn wake(self: Arc<Self>) {
        self.woken.push(self.key);
        self.woken.parent.wake();
    }
}

/// How many packets may be looked at: [`PACKETS_PER_SECOND`] with bursts of a tenth of a second.
struct Budget {
    left: u32,
    filled: Instant,
}

impl Budget {
    const BURST: u32 = PACKETS_PER_SECOND / 10;
    const REFILL: Duration = Duration::from_millis(5);

    fn new(now: Instant) -> Self {
        Self { left: Self::BURST, filled: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled);
        if passed >= Self::REFILL {
            let earned = passed.as_micros().saturating_mul(u128::from(PACKETS_PER_SECOND)) / 1_000_000;
            self.left = self.left.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)).min(Self::BURST);
            self.filled = now;
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }

    fn give_back(&mut self) {
        self.left += 1;
    }

    /// When there will be some again, if there are none.
    fn refilled(&self) -> Option<Instant> {
        (self.left == 0).then(|| self.filled + Self::REFILL)
    }
}

/// The addresses of the host's interfaces.
#[derive(Default)]
struct OwnAddresses {
    list: Vec<IpAddr>,
    read: Option<Instant>,
}

impl OwnAddresses {
    fn list(&mut self, now: Instant) -> &[IpAddr] {
        if self.read.is_none_or(|read| now.duration_since(read) >= OWN_ADDRESSES) {
            match nix::ifaddrs::getifaddrs() {
                Ok(interfaces) => {
                    self.list = interfaces.filter_map(|interface| ip(interface.address.as_ref()?)).collect()
                }
                Err(error) => tracing::warn!(%error, "the host's own addresses cannot be listed"),
            }
            self.read = Some(now);
        }
        &self.list
    }
}

fn ip(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(IpAddr::V4(v4.ip()));
    }
    address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packet_budget_runs_out_and_refills() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        for _ in 0..Budget::BURST {
            assert!(budget.take(start));
        }
        assert!(!budget.take(start));
        assert_eq!(budget.refilled(), Some(start + Budget::REFILL));
        assert!(budget.take(start + Budget::REFILL));
        assert_eq!(budget.left, PACKETS_PER_SECOND / 200 - 1);
    }

    #[test]
    fn the_host_knows_its_own_addresses() {
        let mut own = OwnAddresses::default();
        assert!(own.list(Instant::now()).iter().any(IpAddr::is_loopback));
    }
}
