//! Images that the Docker Engine gets from their registries.

use bollard::{Docker, query_parameters::CreateImageOptionsBuilder};
use futures::StreamExt;
use skep_api::Secret;

use super::failed;
use crate::engine::{EngineError, chain};

const AUTH_HEADER: &str = "x-registry-auth";

/// Pulls one image. The credentials go through as the client gave them, in the form that Docker reads.
pub(super) async fn pull(docker: &Docker, image: &str, auth: &Secret) -> Result<(), EngineError> {
    let not_pulled = |reason: String| EngineError::NotPulled { image: image.to_owned(), reason };
    let mut docker = docker.clone();
    if !auth.is_empty() {
        let is_text = auth.reveal().iter().all(u8::is_ascii_graphic);
        if !is_text {
            return Err(not_pulled("the registry's credentials are malformed".to_owned()));
        }
        let auth = auth.clone();
        docker = docker.with_request_modifier(move |mut request| {
            let headers = request.headers_mut();
            if let Ok(value) = String::from_utf8_lossy(auth.reveal()).parse() {
                headers.insert(AUTH_HEADER, value);
            }
            if let Some(value) = headers.get_mut(AUTH_HEADER) {
                value.set_sensitive(true);
            }
            request
        });
    }
    let options = CreateImageOptionsBuilder::new().from_image(&with_tag(image)).build();
    let mut pulling = docker.create_image(Some(options), None, None).boxed();
    while let Some(step) = pulling.next().await {
        step.map_err(|e| not_pulled(chain(&failed(e))))?;
    }
    Ok(())
}

/// Docker pulls all tags of a name without one.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.to_owned() } else { format!("{image}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tag_is_pulled_never_all() {
        for (image, expect) in [
            ("a", "a:latest"),
            ("a:1", "a:1"),
            ("host:5000/a", "host:5000/a:latest"),
            ("host:5000/a:1", "host:5000/a:1"),
            ("a@sha256:1", "a@sha256:1"),
        ] {
            assert_eq!(with_tag(image), expect);
        }
    }
}
