// Copy buttons, one chart at a time, and all details open on paper. The page is complete without this.
for (const block of document.querySelectorAll(".code")) {
  if (!navigator.clipboard) break;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(block.querySelector("pre").textContent);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  block.append(button);
}
for (const group of document.querySelectorAll(".choose")) {
  const charts = [...group.querySelectorAll("figure")];
  if (charts.length < 2) continue;
  const select = document.createElement("select");
  select.setAttribute("aria-label", "Chart");
  for (const chart of charts) select.add(new Option(chart.querySelector("figcaption").textContent.trim().replace(/\s+/g, " ")));
  const show = () => charts.forEach((chart, number) => { chart.hidden = number !== select.selectedIndex; });
  select.addEventListener("change", show);
  group.prepend(select);
  show();
}
addEventListener("beforeprint", () => {
  for (const closed of document.querySelectorAll("details:not([open])")) closed.open = true;
});
