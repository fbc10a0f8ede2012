"""The bundled networks (safetensors with a model card each) and the registry of known ones."""
