// The pages follow Airflow's theme, which Airflow keeps in the local storage of its origin.
const applyTheme = () => {
  let theme = null;
  try {
    theme = window.localStorage.getItem("theme");
  } catch {
    // No storage: the style sheet follows the system.
  }
  document.documentElement.dataset.theme = theme === "light" || theme === "dark" ? theme : "system";
};
applyTheme();
window.addEventListener("storage", applyTheme);
// Airflow shows the pages in a frame whose sandbox blocks new windows, so Airflow's window opens them.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[target=_blank]");
  if (link !== null && window.parent !== window) {
    const opener = window.parent.document.createElement("a");
    Object.assign(opener, { href: link.href, target: "_blank", rel: "noopener" });
    event.preventDefault();
    opener.click();
  }
});
