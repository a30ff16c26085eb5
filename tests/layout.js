// Returns a description of everything that is clipped or overflows. Tables, listings and drawings may scroll sideways.
() => {
  const problems = new Set();
  const root = document.documentElement;
  const name = (element) => `<${element.tagName.toLowerCase()}> "${element.textContent.trim().replace(/\s+/g, " ").slice(0, 50)}"`;
  const mayScroll = (element) => element.closest("table, pre, svg") !== null;
  const style = (element) => getComputedStyle(element);
  if (root.scrollWidth > root.clientWidth) {
    problems.add(`the page is ${root.scrollWidth} px wide in a window of ${root.clientWidth} px`);
  }

  const checkText = (node) => {
    const parent = node.parentElement;
    if (parent.closest("script, style, title, option, datalist, textarea") || !node.textContent.trim()) return;
    let box = parent.closest("svg") ? parent.closest("g")?.querySelector("rect") ?? parent.closest("svg") : parent;
    while (box instanceof HTMLElement && style(box).display === "inline") box = box.parentElement;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const text of range.getClientRects()) {
      if (text.width === 0 || style(parent).visibility === "hidden") continue;
      const bounds = box.getBoundingClientRect();
      const scrolls = box instanceof HTMLElement && /auto|scroll/.test(style(box).overflowX) && mayScroll(box);
      if (!scrolls && (text.right > bounds.right + 1 || text.left < bounds.left - 1)) {
        problems.add(`text overflows its box: ${name(parent)}`);
      }
      for (let outer = parent; outer; outer = outer.parentElement) {
        const edge = outer.getBoundingClientRect();
        if (/hidden|clip/.test(style(outer).overflow) && (text.right > edge.right + 1 || text.bottom > edge.bottom + 1)) {
          problems.add(`text is clipped: ${name(parent)}`);
        }
      }
    }
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) checkText(texts.currentNode);

  for (const element of document.body.querySelectorAll("*")) {
    const bounds = element.getBoundingClientRect();
    if (bounds.width > 0 && !mayScroll(element) && bounds.right > root.clientWidth + 1) {
      problems.add(`beyond the right edge: ${name(element)}`);
    }
  }
  for (const select of document.querySelectorAll("select, input:not([type=hidden])")) {
    if (select.scrollWidth > select.clientWidth + 1) problems.add(`value is clipped: ${name(select)}`);
  }
  for (const image of document.images) {
    if (image.complete && image.naturalWidth === 0) problems.add(`image is broken: ${image.src}`);
  }
  return [...problems];
}
