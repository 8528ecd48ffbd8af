"""Results as pictures: pages, plots, notebooks, terminals. Results come in; nothing is decided here."""
