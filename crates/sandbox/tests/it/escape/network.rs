//! Services of the host, private networks, metadata.

use std::{
    net::{IpAddr, SocketAddr},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as UnixAddress, UnixListener},
    },
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use backlot_sandbox::Limits;

use super::scene::{Host, Scene};

/// A listener on every address of the host that says a word to whoever comes, and counts.
struct Trap {
    port: u16,
    visits: Arc<AtomicUsize>,
}

impl Trap {
    fn set() -> Self {
        use std::io::Write;
        // `::` takes IPv4 too; where there is no IPv6, only IPv4.
        let listener =
            std::net::TcpListener::bind("[::]:0").or_else(|_| std::net::TcpListener::bind("0.0.0.0:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let visits = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&visits);
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                count.fetch_add(1, Ordering::SeqCst);
                let _gone = stream.write_all(b"trapped");
            }
        });
        Self { port, visits }
    }
}

/// The host's addresses other than loopback.
fn own_addresses() -> Vec<IpAddr> {
    nix::ifaddrs::getifaddrs()
        .unwrap()
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(|address| !address.is_loopback())
        .collect()
}

/// Nothing that listens on the host, next to it or in a private network is reached, whatever the spelling.
pub(crate) async fn the_host_and_private_networks_are_out_of_reach(host: Host) {
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits::default()).await;
    let trap = Trap::set();
    let visits = Arc::clone(&trap.visits);
    std::net::TcpStream::connect(("127.0.0.1", trap.port)).unwrap();
    let mut targets: Vec<(String, u16)> = [
        "127.0.0.1",
        "127.0.0.53",
        "::1",
        "0.0.0.0",
        "::",
        "::ffff:127.0.0.1",
        "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::1",
        "169.254.1.1",
        "169.254.1.2",
        "10.0.2.1",
        "10.0.2.2",
        "10.0.2.3",
        "10.0.2.15",
        "192.168.0.1",
        "192.168.1.1",
        "172.17.0.1",
        "100.64.0.1",
        "fe80::1",
        "fd00::1",
        "fec0::1",
    ]
    .map(|address| (address.to_owned(), trap.port))
    .to_vec();
    targets.extend(own_addresses().into_iter().map(|address| (address.to_string(), trap.port)));
    targets.extend(
        own_addresses().into_iter().filter(IpAddr::is_ipv4).map(|address| (format!("::ffff:{address}"), trap.port)),
    );
    for metadata in [
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "fd00:ec2::254",
        "::ffff:169.254.169.254",
    ] {
        targets.push((metadata.to_owned(), 80));
    }
    targets.push(("1.1.1.1".to_owned(), 25));
    let targets: Vec<String> = targets.into_iter().map(|(address, port)| format!("{address}/{port}")).collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();

    let mut arguments = vec!["connect"];
    arguments.extend(&targets);
    attacker.run(&arguments).await.assert_all_refused(&targets);
    assert_eq!(visits.load(Ordering::SeqCst), 1, "control's own visit only");
    attacker.run(&["connect", "169.254.1.1/80"]).await.assert_results(&[("169.254.1.1/80", "ok")]);
    attacker.sandbox.destroy().await;
    scene.close().await;
}

/// The same for datagrams.
pub(crate) async fn datagrams_do_not_reach_the_host(host: Host) {
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits::default()).await;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let port = socket.local_addr().unwrap().port();
    let mut targets: Vec<String> = [
        "127.0.0.1",
        "169.254.1.1",
        "169.254.169.254",
        "10.0.2.2",
        "192.168.0.1",
        "172.17.0.1",
        "255.255.255.255",
        "224.0.0.251",
    ]
    .map(|address| format!("{address}/{port}"))
    .to_vec();
    targets.extend(own_addresses().into_iter().filter(IpAddr::is_ipv4).map(|address| format!("{}/{port}", address)));
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let mut arguments = vec!["datagrams"];
    arguments.extend(&targets);
    attacker.run(&arguments).await.assert_all_refused(&targets);
    let arrived = socket.recv_from(&mut [0; 8]).map(|(_, from): (usize, SocketAddr)| from);
    assert!(arrived.is_err(), "a datagram came through: {arrived:?}");
    attacker.sandbox.destroy().await;
    scene.close().await;
}

/// Unix sockets of the host, by name and without a file.
pub(crate) async fn unix_sockets_of_the_host_are_out_of_reach(host: Host) {
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits::default()).await;
    let name = format!("backlot-escape-{}", std::process::id());
    let _abstract = UnixListener::bind_addr(&UnixAddress::from_abstract_name(&name).unwrap()).unwrap();
    let path = scene.server_data().join("socket");
    let _named = UnixListener::bind(&path).unwrap();
    std::os::unix::net::UnixStream::connect_addr(&UnixAddress::from_abstract_name(&name).unwrap())
        .expect("control: it listens");
    let sockets = [
        &format!("@{name}"),
        path.to_str().unwrap(),
        "/run/systemd/private",
        "/run/dbus/system_bus_socket",
        "/var/run/docker.sock",
    ];
    let mut arguments = vec!["unix"];
    arguments.extend(sockets);
    attacker.run(&arguments).await.assert_all_refused(&sockets);
    attacker.sandbox.destroy().await;
    scene.close().await;
}

/// A flood of connections and of datagrams is bounded, and the neighbour's own connections get through meanwhile.
pub(crate) async fn a_flood_of_the_network_is_bounded(host: Host) {
    let scene = Scene::open(host).await;
    let attacker = scene.attacker(Limits::default()).await;
    let outcome = attacker.run(&["connections"]).await;
    assert!((128..=1024).contains(&outcome.number("connections")), "{outcome:?}");
    let before = scene.beats();
    let outcome = attacker.run(&["datagram-flood"]).await;
    assert!(outcome.number("sent") > 1000, "{outcome:?}");
    assert!(scene.beats() > before, "the neighbour did not get on during the flood");
    // The flood is over: the attacker's own network works again.
    attacker.run(&["connect", "169.254.1.1/80"]).await.assert_results(&[("169.254.1.1/80", "ok")]);
    attacker.sandbox.destroy().await;
    scene.close().await;
}
