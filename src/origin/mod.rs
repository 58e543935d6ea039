//! The video's own web server, as a scheduled resource.
