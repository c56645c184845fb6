"""float → float: the canonical, folded graph that quantizers are put into."""
