"""Language packs, the sites that run them, and the routes from a language to a pack."""
