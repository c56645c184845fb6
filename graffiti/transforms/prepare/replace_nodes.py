"""What passes share that replace every node of one op, or leave it and say why."""

from __future__ import annotations

from graffiti.graph.ir import Graph, Node
from graffiti.graph.passes import Note, Pass, PassResult


class ReplaceNodes(Pass):
    """Replaces each node of ``op`` where nothing stands against it; a node that is left alone gets a note.

    Attributes:
        op: the op that the pass is about.
    """

    stage = "float"
    op = ""

    def run(self, graph: Graph) -> PassResult:
        """Walk over the nodes of ``op`` that are there at the start."""
        graph, modified, notes = graph.copy(), False, []
        for node in [n for n in graph.nodes if n.op == self.op]:
            why = self.reason_against(graph, node)
            if why:
                notes.append(Note(node.name, why))
            else:
                self.replace(graph, node)
                modified = True
        return PassResult(graph, modified, tuple(notes))

    def reason_against(self, graph: Graph, node: Node) -> str | None:
        """Why a node is left alone; ``None`` where it is replaced."""
        raise NotImplementedError

    def replace(self, graph: Graph, node: Node) -> None:
        """Replace one node in the pass' own copy of the graph."""
        raise NotImplementedError
