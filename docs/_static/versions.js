// A switch between versions, where several are published next to each other: `../versions.json` lists their folders.
(async () => {
  const root = new URL(document.documentElement.dataset.content_root || "./", location.href);
  const answer = await fetch(new URL("../versions.json", root)).catch(() => null);
  const brand = document.querySelector(".sidebar-brand");
  if (!answer || !answer.ok || !brand) return;
  const here = root.pathname.split("/").at(-2);
  const choice = document.createElement("select");
  choice.className = "versions";
  choice.setAttribute("aria-label", "Version");
  for (const name of await answer.json()) choice.add(new Option(name, name, name === here, name === here));
  choice.addEventListener("change", () => {
    const page = location.pathname.slice(root.pathname.length);
    const other = new URL(`../${choice.value}/`, root);
    fetch(new URL(page, other), { method: "HEAD" })
      .then((found) => { location.href = found.ok ? new URL(page, other) : other; })
      .catch(() => { location.href = other; });
  });
  brand.after(choice);
})();
