"""Drawing results: pages, plots, notebooks, terminals. Nothing is computed here."""
