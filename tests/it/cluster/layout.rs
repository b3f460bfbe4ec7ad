//! Who refuses to start, and what the status says of the others.

use super::{setups, three};
use crate::support::nodes::{NODES, subject_of};
use crate::support::{Setup, walcast};

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_start_changes_nothing_and_says_what_to_do() {
    let setup = setups().remove(1);
    let own = subject_of(1, 0);
    let broker = setup.start().await;
    assert_eq!(broker.client().await.publish_kept(&own, "body").await, 1);
    let stopped = broker.stop().await;
    let kept = std::fs::read(stopped.data().join("cluster/layout")).expect("kept");
    let setup = stopped.setup();
    let shares = "n0=0-341,n1=342-682,n2=683-1023";
    let cases = [
        ("another node", setup.clone().set("cluster.node", "n2"), "of node n1, and cluster.node is n2"),
        ("no cluster", setup.clone().set("cluster.node", "").set("cluster.nodes", ""), "cluster.node is not set"),
        (
            "the same version, other slots",
            setup.clone().set("cluster.slots", "n0=0-341,n1=342-1023,n2="),
            "raise cluster.version",
        ),
        (
            "slots of another",
            setup.clone().set("cluster.version", "2").set("cluster.slots", "n0=0-340,n1=341-682,n2=683-1023"),
            shares,
        ),
        (
            "its own to another",
            setup.clone().set("cluster.version", "2").set("cluster.slots", "n0=0-682,n1=,n2=683-1023"),
            "takes slots 342-682 from n1",
        ),
        ("a slot of nobody", setup.clone().set("cluster.slots", "n0=0-1022"), "slot 1023 to no node"),
    ];
    for (what, setup, advice) in cases {
        let (code, said) = setup.refuse();
        assert_eq!(code, 2, "{what}: {said}");
        assert!(said.contains(advice), "{what}: {said}");
        assert_eq!(std::fs::read(setup.data().join("cluster/layout")).expect("kept"), kept, "{what}");
    }
    // A newer layout with the same owners is taken, and the older one is refused from then on.
    let newer = setup.clone().set("cluster.version", "2").set("cluster.slots", shares);
    let broker = newer.start().await;
    assert_eq!(broker.client().await.publish_kept(&own, "body").await, 2);
    broker.stop().await;
    let (code, said) = setup.refuse();
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("configure layout 2"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_layout_is_named_as_damage() {
    let stopped = setups().remove(0).start().await.stop().await;
    let path = stopped.data().join("cluster/layout");
    let mut bytes = std::fs::read(&path).expect("kept");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(&path, bytes).expect("writable");
    let (code, said) = stopped.setup().refuse();
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("cluster/layout"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_a_single_node_needs_a_layout_that_gives_it_all_of_it() {
    let alone = Setup::new().start().await;
    let client = alone.client().await;
    for node in 0..NODES.len() {
        client.publish_kept(&subject_of(node, 0), "body").await;
    }
    let data = alone.data().to_owned();
    // Killed, so that the subjects are in the log only.
    let stopped = alone.kill_nine().await;
    let setup = setups().remove(0).data_dir(&data);
    let (code, said) = setup.refuse();
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("2 subjects of slots"), "{said}");
    assert!(!data.join("cluster/layout").exists());
    let broker = setup.set("cluster.slots", "n0=0-1023").start().await;
    assert_eq!(broker.client().await.publish_kept(&subject_of(2, 0), "body").await, 2);
    drop((broker, stopped));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_owns_slots_in_the_first_layout_only() {
    let setup = setups().remove(2).set("cluster.version", "2");
    let (code, said) = setup.refuse();
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("the data directory of n2 is new"), "{said}");
    assert!(!setup.data().join("cluster").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_of_one_name_cannot_be_configured_and_one_data_directory_has_one_process() {
    let setup = setups().remove(0);
    let (code, said) = setup.clone().set("cluster.nodes", "n0=h:1,n0=h:2").refuse();
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("names n0 twice"), "{said}");
    let broker = setup.clone().start().await;
    let (code, said) = Setup::new()
        .data_dir(broker.data())
        .set("cluster.node", "n0")
        .set("cluster.nodes", &format!("n0={},n1=127.0.0.1:1,n2=127.0.0.1:2", broker.grpc()))
        .refuse();
    assert_eq!(code, 4, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_shows_every_node_and_one_that_is_down() {
    let mut nodes = three().await;
    nodes[1].client().await.publish_kept(&subject_of(1, 0), "body").await;
    let admin: Vec<_> = nodes.iter().map(|node| format!("http://{}", node.admin())).collect();
    let status = |admin: &str| {
        let output = walcast(&["cluster", "status", "--json", "--admin", admin]).output().expect("it runs");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        (output.status.code(), json)
    };
    let (code, json) = status(&admin.join(","));
    assert_eq!((code, json["version"].as_u64()), (Some(0), Some(1)));
    assert_eq!(json["nodes"][1]["slots"], "342-682");
    assert_eq!((json["nodes"][1]["durable"].as_u64(), json["nodes"][0]["durable"].as_u64()), (Some(1), Some(0)));
    assert!(json["nodes"].as_array().expect("nodes").iter().all(|node| node["state"] == "ready"), "{json}");
    let (code, json) = status(&admin[..2].join(","));
    assert_eq!((code, &json["nodes"][2]["state"]), (Some(1), &"not asked".into()));
    nodes.remove(2).stop().await;
    let (code, json) = status(&admin.join(","));
    assert_eq!((code, &json["nodes"][3]["state"]), (Some(5), &"does not answer".into()));
    let shown = walcast(&["cluster", "status", "--admin", &admin[..2].join(",")]).output().expect("it runs");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("slots 0-341, ready, at 127.0.0.1:"), "{shown:?}");
}

#[test]
fn a_configuration_is_checked_with_the_rules_of_a_layout() {
    let checked = |slots: &str| {
        let mut command = walcast(&["config", "check"]);
        command.env("WALCAST_CLUSTER__NODE", "a").env("WALCAST_CLUSTER__NODES", "a=h:1,b=h:2");
        let output = command.env("WALCAST_CLUSTER__SLOTS", slots).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(checked("a=0-511,b=512-1023").0, Some(0));
    let (code, said) = checked("a=0-511,b=512-1022");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("slot 1023 to no node"), "{said}");
}
