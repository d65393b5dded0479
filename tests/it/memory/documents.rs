//! Documents of the largest size, from several registries at once and as many as may be asked for.

use super::*;

/// Bytes in each manifest that say nothing.
const FILLING: usize = 3_900_000;

#[test]
fn as_many_large_documents_as_are_asked_for_at_once_fit() {
    let mut content = BlobSet::default();
    let plain = content.image(&Image::new(&[Layer::of(&[file("f", "x")])]));
    let plain = String::from_utf8(content.blobs[plain.digest()].to_vec()).unwrap();
    let content = Arc::new(content);
    let mut images = "[settings]\ndownloads = 64\n".to_owned();
    let mut servers = Vec::new();
    for _ in 0..3 {
        let (content, plain) = (Arc::clone(&content), plain.clone());
        let handler = move |request: &Request| {
            let Some((_, tag)) = request.path.split_once("/manifests/v") else {
                return serve(&content, request);
            };
            let filling = format!("{{\"annotations\":{{\"{tag}\":\"{}\"}},", "x".repeat(FILLING));
            let mut response = Response::new(200, OCI_MANIFEST, plain.replacen('{', &filling, 1));
            // Slow enough that without a bound all of them are here at once.
            response.shape.bytes_per_second = Some(32 << 20);
            response
        };
        let server = Server::start(Front::Plain, Arc::new(handler));
        let names: Vec<String> = (0..8).map(|number| format!("team/app:v{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        images.push_str(&wanted(&server.name(), &names));
        servers.push(server);
    }
    let sandbox = Sandbox::new();
    sandbox.images(&images);
    let plan = assert_bounded(&sandbox, "plan --json");
    let plan = plan.json();
    let plan = plan["images"].as_array().unwrap();
    assert_eq!(plan.iter().filter(|image| image["action"] == "add").count(), 24);
    for server in servers {
        for number in 0..8 {
            let path = format!("/v2/team/app/manifests/v{number}");
            let asked = server.log().iter().filter(|exchange| exchange.request.path == path).count();
            assert!((1..=2).contains(&asked), "{path}: {asked}");
        }
    }
}
