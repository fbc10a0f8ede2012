"""The live scene in a browser: frames of the scene, a small web server, the page."""
