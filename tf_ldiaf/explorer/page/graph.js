"use strict";

const edgeName = ({ parent, child }) => `${parent}-${child}`;

function nodeText(node, n) {
  const kl = node.kl === null ? "" : `: KL ${node.kl.toFixed(2)} nats`;
  return `z${n + 1}${kl}${node.is_dead ? ", says nothing of an image" : ""}`;
}

function edgeText(edge) {
  let worth = edge.weight < 1 ? `gate probability ${edge.weight.toFixed(2)}` : "given";  // learned gates stay below 1
  if (edge.stderr !== undefined) worth = `worth ${edge.weight.toFixed(2)} ± ${edge.stderr.toFixed(2)} nats`;
  return `z${edge.parent} → z${edge.child}: ${worth}`;
}

/** The nodes below `node`: its children, theirs, and so on. */
function descendants(model, node) {
  const found = new Set();
  // A child has a smaller number than its parents.
  for (let n = node - 1; n >= 1; n--) {
    if (model.edges.some((e) => e.child === n && (e.parent === node || found.has(e.parent)))) found.add(n);
  }
  return found;
}

/** Draws the latent graph; `onNode` and `onEdge` get what is clicked. Returns a function of the state that shows it. */
function makeGraph(container, tooltip, model, onNode, onEdge) {
  const num = model.nodes.length;
  const largest = (values) => Math.max(1e-9, ...values);
  const mostKl = largest(model.nodes.map((node) => node.kl ?? 0)), mostWorth = largest(model.edges.map((e) => e.weight));
  // On a circle with the root on top: no edge hides behind a node.
  const angle = (n) => Math.PI / 2 - (2 * Math.PI * (num - 1 - n)) / num;
  const nodes = model.nodes.map((node, n) => ({
    data: {
      id: `z${n + 1}`, node: n + 1, text: nodeText(node, n),
      size: node.kl === null ? 50 : 36 + 34 * Math.sqrt(Math.max(node.kl, 0) / mostKl),
    },
    position: { x: 130 * Math.cos(angle(n)), y: -130 * Math.sin(angle(n)) },
    classes: node.is_dead ? "dead" : "",
  }));
  const edges = model.edges.map((edge) => ({
    data: {
      id: edgeName(edge), source: `z${edge.parent}`, target: `z${edge.child}`, edge,
      text: edgeText(edge), width: 1.5 + (edge.stderr === undefined ? 1 : (8 * Math.max(edge.weight, 0)) / mostWorth),
    },
  }));
  const graph = cytoscape({
    container, elements: [...nodes, ...edges], layout: { name: "preset", fit: true, padding: 12 },
    maxZoom: 1.2, userZoomingEnabled: false, userPanningEnabled: false, boxSelectionEnabled: false, autoungrabify: true,
  });

  function colour() {
    const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const [text, ink, accent, soft, grey, warn] = ["--text", "--ink", "--accent", "--soft", "--grey", "--warn"].map(css);
    graph.style([
      { selector: "node", style: {
        label: "data(id)", width: "data(size)", height: "data(size)", "background-color": soft, "border-color": ink,
        "border-width": 1.5, color: text, "text-valign": "center", "text-halign": "center", "font-size": 16,
        "font-family": "system-ui, sans-serif" } },
      { selector: "edge", style: {
        width: "data(width)", "curve-style": "straight", "line-color": ink, "target-arrow-color": ink,
        "target-arrow-shape": "triangle", "arrow-scale": 1.1, opacity: 0.85 } },
      { selector: "node.dead", style: { "background-color": grey, "border-color": grey, "border-style": "dashed" } },
      { selector: "edge.shut", style: { "line-color": warn, "target-arrow-color": warn, "line-style": "dashed", width: 2.5 } },
      { selector: "node.chosen", style: { "background-color": accent, "border-color": accent, color: "#fff" } },
    ]);
  }

  function fit() {
    graph.resize();
    graph.fit(undefined, 12);
    graph.center();
  }

  colour();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", colour);
  new ResizeObserver(fit).observe(container);
  graph.on("tap", "node", (event) => onNode(event.target.data("node")));
  graph.on("tap", "edge", (event) => onEdge(event.target.data("edge")));
  graph.on("mousemove", "node, edge", ({ target, originalEvent }) => {
    tooltip.textContent = target.data("text") + (target.isEdge() ? (target.hasClass("shut") ? ". Click opens it." : ". Click shuts it.") : "");
    tooltip.hidden = false;
    tooltip.style.left = `${Math.min(originalEvent.clientX + 14, innerWidth - tooltip.offsetWidth - 8)}px`;
    tooltip.style.top = `${originalEvent.clientY + 14}px`;
    container.style.cursor = "pointer";
  });
  graph.on("mouseout", "node, edge", () => {
    tooltip.hidden = true;
    container.style.cursor = "";
  });

  return ({ node, shut }) => {
    graph.nodes().forEach((one) => one.toggleClass("chosen", one.data("node") === node));
    graph.edges().forEach((one) => one.toggleClass("shut", shut.has(one.id())));
  };
}
